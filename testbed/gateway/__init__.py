"""A real Envoy in front of pairs of services."""
