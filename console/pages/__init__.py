"""The pages of the console, and the JSON that their scripts ask for."""
