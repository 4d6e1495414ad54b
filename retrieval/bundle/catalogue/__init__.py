"""The items of a bundle as columns: ids and attributes, read without pickle."""
