"""What receives traces."""
