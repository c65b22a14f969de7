"""request.db: joined while pyramid_tm is at work, always given back."""
