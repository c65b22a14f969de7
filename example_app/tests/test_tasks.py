"""The Celery worker, under prefork."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Program, write, write_ini
from webtest import TestApp

DAY = "2026-11-22"

Celery = Callable[..., Program]


@pytest.fixture
def celery(
    environment: str,
    both_environments: None,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Celery]:
    """Run Celery's own command."""
    ini = write_ini(tmp_path, f"{environment}.ini", settings)
    monkeypatch.setenv("EXAMPLE_APP_INI", str(ini))
    started = []

    def start(*words: str) -> Program:
        started.append(Program("-m", "celery", "-q", "-A", "example_app.tasks", *words))
        return started[-1]

    yield start
    for program in started:
        program.kill()


@pytest.mark.parametrize(
    "environment", [pytest.param("development", marks=pytest.mark.slow), "production"]
)
def test_task_writes_one_note(app: TestApp, celery: Celery) -> None:
    """A task counts in a unit of work, also when it runs twice; the worker ends in order."""
    write(app, "Hello")
    today = app.get("/api/notes").json["notes"][0]["created"][:10]
    worker = celery("worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO")
    worker.wait_for("ready.")
    for _ in range(2):
        assert celery("call", "example_app.tasks.count_notes", "--args", f'["{today}"]').end() == 0
        worker.wait_for("succeeded")
    notes = [note["text"] for note in app.get("/api/notes").json["notes"]]
    assert notes == [f"1 note was written on {today}.", "Hello"]
    assert worker.end(signal.SIGTERM) == 0
    assert "Traceback" not in worker.output
