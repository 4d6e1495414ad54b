"""The command line of the trainer; the only code that prints."""
