"""session_factory and unit_of_work, on real servers."""
