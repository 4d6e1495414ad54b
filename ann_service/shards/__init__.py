"""A catalogue in shards: each is searched like a catalogue of its own, and the answers are merged."""
