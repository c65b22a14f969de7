"""SQLAlchemy's private names: who uses which, and that this is written down."""

from pathlib import Path

import pytest

from tests.support.private_names import PACKAGE, listed, used

MODULES = sorted(PACKAGE.rglob("*.py"))


def test_few_modules_rely_on_private_names() -> None:
    """Where another release of SQLAlchemy can break something is known."""
    found = [str(path.relative_to(PACKAGE)) for path in MODULES if listed(path)]
    assert found == ["engines/forks.py", "engines/steps.py", "pool/managed.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_are_listed_where_they_are_used(path: Path) -> None:
    """Neither is one missing, nor is one on the list that is not used any more."""
    assert used(path) == listed(path)


def test_every_way_to_use_a_private_name_is_seen(tmp_path: Path) -> None:
    """Mentioned, by its name, overridden, imported; a name of ours is none of SQLAlchemy's."""
    module = tmp_path / "module.py"
    module.write_text(
        "from sqlalchemy.pool import QueuePool\n"
        "from sqlalchemy.pool.base import _ConnectionRecord as Record\n"
        "class Pool(QueuePool):\n"
        "    def _do_get(self): return self.dbapi_connection\n"
        "class Further(Pool):\n"
        "    def recreate(self): self._pool = self._pre_ping\n"
        "def look(record, pool):\n"
        "    return record.fairy_ref, getattr(pool, '_recycle', -1)\n"
        "def look_at_ours(pool):\n"
        "    return pool.__class__, pool._transaction\n"
    )
    names = {"_ConnectionRecord", "_do_get", "_pool", "_pre_ping", "_recycle", "fairy_ref"}
    assert used(module) == names
