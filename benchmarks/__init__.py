"""Measurements that docs/ quotes. Each is one command, and compares everything side by side in one run.

`python -m benchmarks`, or `make bench`, runs those of `services`, `pair` and `index` that take less than an hour. The
docstring of each folder names the commands of the others.
"""
