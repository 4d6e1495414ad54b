"""Where bundles live: versions, the live one, promotion, roll back, pruning."""
