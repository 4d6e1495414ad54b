"""Where bundles live: staging, versions, the live pointer, promotion, roll back and pruning; every change is atomic."""
