"""Text encoders of the towers: checkpoints, encoders, distillation, and the cache of vectors."""
