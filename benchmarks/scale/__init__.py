"""What a catalogue of any size costs: measured figures, a simulation that reproduces them, and plans of fleets."""
