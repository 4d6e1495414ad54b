"""Speed and memory of trainings."""
