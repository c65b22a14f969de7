"""The pools that the scenarios can be run against, each loaded when it is asked for."""

from collections.abc import Callable
from importlib import import_module

from .base import Adapter

__all__ = ["ADAPTERS", "Adapter", "load"]

ADAPTERS = {
    "ManagedPool": "managed:ManagedAdapter",
    "QueuePool": "queue:QueueAdapter",
    "psycopg_pool": "psycopg:PsycopgAdapter",
    "mysql-connector": "mysql:MySQLAdapter",
}


def load(name: str) -> Adapter:
    """Return the adapter of this name; raise ImportError where its package is absent."""
    module, _, attribute = ADAPTERS[name].partition(":")
    make: Callable[[], Adapter] = getattr(import_module(f".{module}", __package__), attribute)
    return make()
