"""Text in the towers: checkpoints, encoders, their cache, distillation and export."""
