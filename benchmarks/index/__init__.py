"""Measurements of the kinds of index, compared with each other and with other libraries."""
