"""What is run from the command line.

- `pdbpool`: ``pdbpool settings`` and ``pdbpool check``.
"""
