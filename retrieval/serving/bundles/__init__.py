"""Which bundles a service has open: the policy, the loading thread, the verification."""
