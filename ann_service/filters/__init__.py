"""Filters: conditions on item attributes, from a proto `Filter` to a bitset over the items."""
