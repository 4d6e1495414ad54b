"""The Icecat product catalogue as tables of a recipe."""
