"""The part of the served log that the ANN service writes."""
