"""`make attack`: attacks running services as callers outside of the project's client, and judges what others notice."""
