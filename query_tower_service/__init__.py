"""The query tower service: features in, embeddings out."""
