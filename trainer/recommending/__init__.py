"""The command `recommend`: a list of items for every user of a table, written to Parquet."""
