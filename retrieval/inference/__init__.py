"""Models of a bundle, opened to be called: query tower and text encoders. Only this package imports LiteRT."""
