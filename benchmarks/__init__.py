"""Measurements that docs/ quotes: each one command, everything compared side by side in one run."""
