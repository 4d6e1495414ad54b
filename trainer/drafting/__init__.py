"""Drafts a recipe from tables: column roles, column types, CSV dialect."""
