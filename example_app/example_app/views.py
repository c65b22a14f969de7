"""The JSON API, and the page at `/`."""

import html
import json
from pathlib import Path
from typing import Any
from uuid import UUID

from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from example_app.broker import needed, publish_after_commit
from example_app.headers import policy_for
from example_app.models import Note, earliest_open, write_note

PAGE = Path(__file__).with_name("page.html").read_text()
POOLS = '<footer><a href="/dbpool">Database pools</a></footer>'
MAX_TEXT = 10_000  # characters
MAX_BODY = 131_072  # bytes; JSON may take twelve for a character
MAX_LIMIT = 100  # notes in one answer
MAX_SINCE = 2**63 - 1  # what the database can compare with


def includeme(config: Configurator) -> None:
    """Say which view answers what."""
    settings = config.registry.settings
    address = needed(settings, "streamer.address")
    page = PAGE.replace("{streamer.address}", html.escape(address))
    # Where it is, is the ini file's business.
    pools = POOLS if "dbpool.status_permission" in settings else ""
    page = page.replace("{pools}", pools)
    config.registry["page"] = page, policy_for(page, address)
    config.add_route("page", "/")
    config.add_route("notes", "/api/notes")
    config.add_route("note", "/api/notes/{id}")
    config.add_view(show_page, route_name="page", request_method="GET")
    config.add_view(list_notes, route_name="notes", request_method="GET", renderer="json")
    config.add_view(get_note, route_name="note", request_method="GET", renderer="json")
    config.add_view(put_note, route_name="note", request_method="PUT", renderer="json")
    config.add_exception_view(refused, context=Refused, renderer="json")
    config.add_exception_view(bad_path, context=URLDecodeError, renderer="json")
    config.add_notfound_view(not_found, renderer="json")


class Refused(Exception):
    """The request cannot be served; the client is told the status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def show_page(request: Request) -> Response:
    """Show the page that lists the notes and takes new ones."""
    page, policy = request.registry["page"]
    response = Response(page)
    response.headers["Content-Security-Policy"] = policy
    return response


def put_note(request: Request) -> Note:
    """Create a note or replace its text."""
    note = write_note(request.db, note_id(request), note_text(request))
    publish_after_commit(request, {"id": str(note.id)})
    if note.created == note.updated:
        request.response.status = 201
    return note


def get_note(request: Request) -> Note:
    """Show one note."""
    db: Session = request.db
    note = db.get(Note, note_id(request))
    if note is None:
        raise Refused(404, f"there is no note {note_id(request)}")
    return note


def list_notes(request: Request) -> dict[str, Any]:
    """Show the newest notes, or with `?since=` those written since an answer whose `next` it is.

    The list comes from the replica, which may lag; what was written since, from the primary.
    """
    at_most = limit(request)
    if "since" in request.GET:
        return written_since(request.db, number(request, "since", 0, MAX_SINCE), at_most)
    db: Session = request.db_replica
    # Before the notes: what is committed between the two is told twice, not missed.
    mark = db.scalar(earliest_open)
    newest = select(Note).order_by(Note.created.desc(), Note.id).limit(at_most)
    return {"notes": list(db.scalars(newest)), "next": str(mark)}


def written_since(db: Session, since: int, at_most: int) -> dict[str, Any]:
    """Show the notes of the transactions from `since` on, the earliest first."""
    mark: int = db.scalars(earliest_open).one()
    written = select(Note).where(Note.written_in >= since).order_by(Note.written_in)
    # With ties: cut in the middle, a transaction of more notes than this is never got past.
    notes = list(db.scalars(written.fetch(at_most, with_ties=True)))
    if len(notes) >= at_most:
        # There may be more: go on after the last one, but not past what is still open.
        mark = min(mark, notes[-1].written_in + 1)
    return {"notes": notes, "next": str(mark)}


def refused(error: Refused, request: Request) -> dict[str, str]:
    """Tell the client what was wrong with its request."""
    request.response.status = error.status
    return {"error": str(error)}


def bad_path(request: Request) -> dict[str, str]:
    """Refuse a path that is not UTF-8."""
    request.response.status = 400
    return {"error": "the path must be UTF-8"}


def not_found(request: Request) -> dict[str, str]:
    """Answer in JSON where there is nothing, or nothing for this method."""
    request.response.status = 404
    return {"error": f"there is no {request.method} {request.path}"}


def note_id(request: Request) -> UUID:
    """Read the id out of the path."""
    try:
        return UUID(request.matchdict["id"])
    except ValueError:
        raise Refused(400, f"the id must be a UUID, not {request.matchdict['id']!r}") from None


def note_text(request: Request) -> str:
    """Read the text out of the body: `{"text": "..."}`."""
    body = json_body(request)
    if not isinstance(body, dict) or not isinstance(body.get("text"), str):
        raise Refused(400, 'the body must be an object with a string "text"')
    text: str = body["text"]
    if not text.strip():
        raise Refused(400, "the text must not be empty")
    if len(text) > MAX_TEXT:
        raise Refused(400, f"the text has {len(text)} characters; {MAX_TEXT} are allowed")
    if not storable(text):
        raise Refused(400, "the text must not have NUL characters or lone surrogates")
    return text


def json_body(request: Request) -> object:
    """Read the body, if it is not too long to be a note."""
    # From its start: an earlier attempt may have read it.
    request.make_body_seekable()
    body = request.body_file_raw.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise Refused(400, f"the body has more than {MAX_BODY} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body must be JSON: {error}") from None


def storable(text: str) -> bool:
    """Tell whether PostgreSQL can keep a text: JSON can carry more than it takes."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def limit(request: Request) -> int:
    """Read `?limit=` out of the query."""
    return number(request, "limit", 1, MAX_LIMIT, 20)


def number(request: Request, name: str, least: int, most: int, default: int = 0) -> int:
    """Read a whole number out of the query."""
    try:
        found = int(request.GET.get(name, default))
    except ValueError:  # also when the query is not UTF-8
        found = least - 1
    if not least <= found <= most:
        raise Refused(400, f"{name} must be a whole number from {least} to {most}")
    return found
