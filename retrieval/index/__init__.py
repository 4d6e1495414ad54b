"""Nearest rows of a matrix of unit vectors: the exact scan, and kinds of approximate index behind one seam.

The trainer measures and the ANN service searches with this very code. It knows files and arrays, no bundles.
"""
