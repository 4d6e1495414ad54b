"""What a call is, which call is answered next, and by which thread."""
