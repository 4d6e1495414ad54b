"""Kinds of index beside each other and beside other libraries."""
