"""What a connection pool must do, as scenarios that any pool can be run against."""
