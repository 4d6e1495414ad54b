"""The items of a bundle: ids and attributes as columns."""
