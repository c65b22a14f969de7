"""The drills, in short."""
