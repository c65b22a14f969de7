"""Celery, the other kind of worker: each task is a unit of work.

EXAMPLE_APP_INI=development.ini celery -A example_app.tasks worker

Its children are forked, and each has a pool of its own: there is nothing to configure.
"""

import os
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from celery import Celery
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError, TimeoutError

from example_app import broker, ini
from example_app.models import Note, write_note
from pyramid_dbpool import get_engine, unit_of_work

if not os.environ.get("EXAMPLE_APP_INI"):
    raise SystemExit("set EXAMPLE_APP_INI to the ini file, such as development.ini")
# A wrong setting ends the worker here, and not each task; nothing is connected to.
with ini.one_line_errors("example_app.tasks"):
    settings = ini.read(os.environ["EXAMPLE_APP_INI"], {})
    get_engine(settings)
    events = broker.connect(settings)

app = Celery("example_app", broker=settings["broker.url"])
if "broker.folder" in settings:
    app.conf.broker_transport = "example_app.files:Transport"
    app.conf.broker_transport_options = broker.file_options(Path(settings["broker.folder"]))
app.conf.update(
    # Acknowledged after the unit of work: what a worker that dies was at is done again ...
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # ... and what it had only taken goes to others.
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    # The ini file says how to log.
    worker_hijack_root_logger=False,
)


# The database went away, or no connection came free in time: later, and later still.
@app.task(autoretry_for=(OperationalError, TimeoutError), retry_backoff=True)  # type: ignore[untyped-decorator]
def count_notes(day: str) -> None:
    """Write a note that says how many notes were written on a day such as 2026-11-22."""
    start = date.fromisoformat(day)
    # The same id for the same day: a task that runs twice replaces its note.
    note_id = uuid5(NAMESPACE_URL, f"https://notes.example.org/count/{day}")
    with unit_of_work(settings) as session:
        of_the_day = Note.created.between(start, start + timedelta(days=1)), Note.id != note_id
        count: Any = session.scalar(select(func.count()).select_from(Note).where(*of_the_day))
        written = "1 note was" if count == 1 else f"{count} notes were"
        write_note(session, note_id, f"{written} written on {day}.")
    broker.publish(events, {"id": str(note_id)})
