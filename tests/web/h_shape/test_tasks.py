"""Tasks of the app of h's shape: one request for all of them, which never ends."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pyramid.threadlocal import manager

from tests.support.h_shape import tasks
from tests.support.h_shape.app import Annotation, Broken
from tests.web.h_shape.conftest import Outside


@pytest.fixture
def celery(ini: str, tools: None) -> Iterator[Celery]:
    """Have tasks run here and now, on the request of a worker."""
    tasks.celery.conf.task_always_eager = True
    tasks.bind(ini)
    yield tasks.celery
    tasks.celery.conf.task_always_eager = False
    tasks.celery.request.db.close()
    del tasks.celery.request
    manager.clear()


def test_what_tasks_commit_is_stored(celery: Celery, outside: Outside) -> None:
    """One after the other on the same request, and a failed one is rolled back."""
    for number in range(3):
        tasks.annotate.delay(f"text {number}").get()
        assert outside.annotations == [f"text {each}" for each in range(number + 1)]
        with pytest.raises(Broken):
            tasks.annotate.delay(f"broken {number}").get()
        assert tasks.count.delay().get() == number + 1
        assert outside.idle_in_transaction() == 0
    assert outside(Annotation.indexed) == [True] * 3


def test_a_block_in_a_task_is_stored_with_what_follows(celery: Celery, outside: Outside) -> None:
    """Although the session had begun before it."""
    tasks.in_a_block.delay("block").get()
    tasks.in_a_block.delay("block").get()
    assert (outside.annotations, outside.notes) == (["block"] * 2, ["task 0", "task 1"])
    assert outside.idle_in_transaction() == 0


@pytest.mark.programs
def test_what_a_workers_tasks_commit_is_stored(ini: str, tmp_path: Path, outside: Outside) -> None:
    """In each of the processes that were forked from the one which has made the request."""
    folder = tmp_path / "done"
    folder.mkdir()
    worker = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.support.h_shape.tasks", ini, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "C_FORCE_ROOT": "1"},
    )
    assert worker.stdin is not None and worker.stdout is not None
    with worker:
        assert worker.stdout.readline() == "done\n"
        idle = outside.idle_in_transaction()
        worker.stdin.write("\n")
    assert worker.returncode == 0
    assert len(list(folder.iterdir())) == 24
    stored: list[Any] = [f"{kind} {number}" for kind in ("block", "text") for number in range(6)]
    assert outside.annotations == stored
    assert len(outside.notes) == 6
    assert idle == 0
