"""The two towers, their losses and negatives, and trained models."""
