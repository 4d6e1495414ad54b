"""Tables of interactions, items and users, read into arrays and split."""
