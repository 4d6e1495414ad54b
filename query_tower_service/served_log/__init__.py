"""The part of the served log that the query tower service writes."""
