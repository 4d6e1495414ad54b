"""Load tests with ghz: configurations, data made from a bundle, and what judges the output."""
