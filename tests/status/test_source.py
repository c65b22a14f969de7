"""Where the page has its reports from, and who does what a command says."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyramid_dbpool import ManagedPool, dispose_engine, get_engine
from pyramid_dbpool.status import source
from pyramid_dbpool.status.source import Source
from pyramid_dbpool.telemetry.host import Answer
from tests.support.reports import pool, report

HERE = os.getpid()


@pytest.fixture
def settings(psycopg_url: str) -> Iterator[dict[str, Any]]:
    """Give the settings of an engine that has been used."""
    settings = {"sqlalchemy.url": psycopg_url}
    get_engine(settings).connect().close()
    yield settings
    dispose_engine(settings)


def managed(settings: dict[str, Any]) -> ManagedPool:
    found = get_engine(settings).pool
    assert isinstance(found, ManagedPool)
    return found


def key(shown: Source, settings: dict[str, Any]) -> str:
    """Find a pool of this process by its database."""
    name = settings["sqlalchemy.url"].rpartition("/")[2]
    (found,) = [e.key for e in shown.overview().pools if e.database.endswith(f"/{name}")]
    return found


def test_without_a_folder_it_is_this_process(settings: dict[str, Any]) -> None:
    """And it says that there may be others."""
    shown = Source(None)
    overview = shown.overview()
    assert [each["pid"] for each in overview.reports] == [HERE]
    assert overview.note.startswith("Only the process that has answered is shown")
    assert key(shown, settings)


def test_a_folder_that_is_missing_is_said(settings: dict[str, Any], tmp_path: Path) -> None:
    """What can be shown is shown."""
    overview = Source(str(tmp_path / "missing")).overview()
    assert [each["pid"] for each in overview.reports] == [HERE]
    assert overview.note.startswith("Only one process is shown: ")
    assert "missing" in overview.note


def test_with_a_folder_it_is_all_of_the_host(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are silent, and this one, whether it could answer itself or not."""
    answers = [Answer(1, report(1)), Answer(2, None, "is busy"), Answer(HERE, None, "is busy")]
    monkeypatch.setattr(source, "ask", lambda _run_dir: answers)
    overview = Source("/run/pools").overview()
    assert [each["pid"] for each in overview.reports] == sorted([1, HERE])
    assert (overview.silent, overview.note) == ({2: "is busy"}, "")


@pytest.mark.parametrize("folder", [None, "/run/pools"])
def test_this_process_is_told_without_a_socket(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    """It need not wait for itself."""
    monkeypatch.setattr(source, "ask", lambda _run_dir: [])
    shown, own = Source(folder), managed(settings)
    found = key(shown, settings)
    assert shown.command("resize", found, by="alice", size=3, max_overflow=1) == {HERE: None}
    assert own.snapshot().capacity == 4
    shown.command("pause", found, by="alice")
    assert own.snapshot().paused_seconds is not None
    shown.command("resume", found, by="alice")
    assert own.snapshot().paused_seconds is None
    said = shown.command("resize", found, by="alice", size=-3, max_overflow=1)[HERE]
    assert said is not None and said.startswith("says: ")


def test_only_processes_that_have_the_pool_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others of the folder may be another app's, with a pool of the same name."""
    told = []

    def command(_run_dir: str, name: str, **said: Any) -> list[Answer]:
        told.append((name, said))
        return [Answer(1, {}), Answer(2, None, "is busy")]

    others = [report(3, [pool(database="sqlite:///other.db")]), report(4, app="other")]
    answers = [Answer(each["pid"], each) for each in (report(1), report(2), *others)]
    monkeypatch.setattr(source, "ask", lambda _run_dir: answers)
    monkeypatch.setattr(source, "command", command)
    shown = Source("/run/pools")
    found = next(e.key for e in shown.overview().pools if e.pids == [1, 2])
    assert shown.command("refresh", found, by="alice") == {1: None, 2: "is busy"}
    assert told == [("refresh", {"pool": "default", "pids": {1, 2}, "by": "alice"})]
    with pytest.raises(ValueError, match="no such pool any more"):
        shown.command("refresh", "another", by="alice")
