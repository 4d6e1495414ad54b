"""The ANN service: embeddings in, nearest items out."""
