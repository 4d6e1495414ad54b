"""Programs that show trainer, services and client together."""
