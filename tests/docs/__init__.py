"""README.rst and docs/ do what they say."""
