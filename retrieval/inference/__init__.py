"""Models of a bundle, opened to be called: LiteRT is imported here alone."""
