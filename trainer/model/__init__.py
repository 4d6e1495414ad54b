"""The two towers, their losses and their negatives."""
