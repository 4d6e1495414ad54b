"""Raw features to model inputs: the one encoder that training and serving share."""
