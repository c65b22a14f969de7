"""Which requests are tried again after an error of the database, and which must not be."""
