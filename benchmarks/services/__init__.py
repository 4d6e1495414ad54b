"""What a call of each service costs."""
