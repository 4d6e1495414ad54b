"""The commands that use a table of users: `recommend` writes their lists, `load-features` stores their features."""
