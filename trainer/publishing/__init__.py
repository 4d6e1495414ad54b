"""Turns a run into a bundle: export, index, golden queries, gates, report."""
