"""The recipe: its keys, their checks, and how it is read and written."""
