"""Lexical search: BM25 over the texts of items, built by the trainer and mapped by the ANN service."""
