"""Converts the Icecat product catalogue into the tables of a recipe, with search queries generated from it."""
