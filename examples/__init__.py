"""Programs that show the pair at work."""
