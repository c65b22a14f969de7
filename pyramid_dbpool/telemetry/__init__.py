"""What this process and the others of this host tell of their pools, for whoever looks.

`metrics` names each number that a monitoring system is told, once.
"""
