"""Load tests with ghz: configurations, requests made from a bundle, and thresholds for the results."""
