"""What every page of the console has in common: sessions, checks of requests, and templates."""
