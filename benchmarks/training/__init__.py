"""Measurements of the speed and memory of trainings."""
