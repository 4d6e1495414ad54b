"""Embeds a catalogue of any size in slices, in processes of one machine or on the nodes of a Ray cluster."""
