"""The console: a page that shows store, fleet, recommendations and live figures of a two-tower system."""
