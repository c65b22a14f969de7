"""The plugin in a Pyramid app."""
