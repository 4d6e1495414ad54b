"""Words of items to items: BM25 over texts, which the trainer builds and measures and the ANN service searches."""
