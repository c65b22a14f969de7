"""`consume`, on every database."""
