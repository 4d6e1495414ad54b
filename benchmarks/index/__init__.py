"""Time, memory and recall of each kind of index, beside other libraries and the exact scan.

- `python -m benchmarks.index.kinds`: time of a search at the same recall, file size, time to build and to open.
- `python -m benchmarks.index.build`: time and memory of a build.
- `python -m benchmarks.index.filters`: searches with filters and excluded items, beside the exact scan.
- `python -m benchmarks.index.plots`: plots of what `kinds` measured.
"""
