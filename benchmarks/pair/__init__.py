"""Both services together, beside another vector database."""
