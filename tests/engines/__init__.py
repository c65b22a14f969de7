"""One engine for each process and its settings."""
