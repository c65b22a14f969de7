"""What is told of the pools, and the asking."""
