"""The attacks: each module has one, a function from the setup of the run to the rows of the table."""
