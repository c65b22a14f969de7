"""The pool and its parts."""
