"""How fast the pool is, beside the other pools of Python, in one run."""
