"""The tests' own servers."""
