"""The pools that the scenarios can be run against."""

from .base import Adapter
from .managed import ManagedAdapter
from .mysql import MySQLAdapter
from .psycopg import PsycopgAdapter
from .queue import QueueAdapter

__all__ = ["ADAPTERS", "Adapter"]

ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (ManagedAdapter(), QueueAdapter(), PsycopgAdapter(), MySQLAdapter())
}
