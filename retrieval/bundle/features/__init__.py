"""The feature encoder: raw features to model inputs, the same code in training and serving, in NumPy alone."""
