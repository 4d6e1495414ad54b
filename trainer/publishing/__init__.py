"""Publishes a finished run as a bundle: export, index selection, golden queries, gates, report; catalogue updates."""
