"""Quality and speed of trainings."""
