"""Chooses the items of a result from the candidates of a ranking: boosts, diversity, group limits, and facets."""
