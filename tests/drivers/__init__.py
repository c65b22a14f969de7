"""What is understood of the drivers."""
