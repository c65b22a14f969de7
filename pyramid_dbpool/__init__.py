"""One managed SQLAlchemy pool per process for Pyramid apps and their workers."""
