"""The store of bundles: staging, versions, live pointer, promotion, roll back and pruning; every change is atomic."""
