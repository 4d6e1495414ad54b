"""What the console reads of the store and of the bundles in it, and how it changes what is live."""
