"""Search over a matrix of unit vectors: the exact scan, approximate indexes behind one interface, and a lexical index.

The trainer measures with the code that the ANN service searches with. Only this package imports Annoy, FAISS and bm25s.
"""
