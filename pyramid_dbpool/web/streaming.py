"""Rows streamed in a response body, on a session that lives as long as the body."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy.orm import Session

from ..pool.labels import holder_label
from ..sessions.closing import close_session
from ..sessions.unit_of_work import session_factory
from .requests import request_name, supplied_session

if TYPE_CHECKING:
    from pyramid.request import Request

__all__ = ["RowStream", "stream"]

Chunk = TypeVar("Chunk")


def stream(
    request: "Request", produce: Callable[[Session], Iterable[Chunk]], name: str = "default"
) -> "RowStream[Chunk]":
    """Return a response body of what `produce(session)` yields.

    A body runs after the request has ended, so it cannot use ``request.db``.
    This one has a session of its own, made when the server asks for the first
    chunk, and closed with the body: at its end, on an error, or when the
    server closes it because the client went away. ::

        def export(request):
            def rows(session):
                query = select(Note).execution_options(yield_per=500)
                for note in session.scalars(query):
                    yield f"{note.id},{note.text}\\n".encode()

            return Response(app_iter=stream(request, rows), content_type="text/csv")

    :param request: where the settings come from; in a test, also the session
        (``environ["app.dbsession"]``), which is left open.
    :param produce: takes the session, yields the chunks (bytes, for WSGI).
    :param name: the pool: ``"default"``, or NAME of ``sqlalchemy.NAME.url``.

    Errors, `PoolTimeout` and `DatabaseUnavailable` included, are raised to the server as it asks
    for a chunk: the status has been sent by then.
    """
    supplied = supplied_session(request, name)
    if supplied is not None:
        return RowStream(lambda: supplied, produce, lambda session: None)
    settings = request.registry.settings
    label = f"{request_name(request)}, streaming its body"
    return RowStream(lambda: session_factory(settings, name), produce, close_session, label)


class RowStream(Generic[Chunk]):
    """An iterator of chunks that owns a session until it is closed."""

    def __init__(
        self,
        open_session: Callable[[], Session],
        produce: Callable[[Session], Iterable[Chunk]],
        close: Callable[[Session], None],
        label: str | None = None,
    ) -> None:
        self._open_session = open_session
        self._produce = produce
        self._close_session = close
        self._label = label
        self._session: Session | None = None
        self._chunks: Iterator[Chunk] | None = None
        self._closed = False

    def __iter__(self) -> "RowStream[Chunk]":
        return self

    def __next__(self) -> Chunk:
        if self._closed:
            raise StopIteration
        try:
            # The request is over, and its label with it.
            with holder_label(self._label):
                if self._chunks is None:
                    self._session = self._open_session()
                    self._chunks = iter(self._produce(self._session))
                return next(self._chunks)
        except BaseException:
            # Also at the end: a server that never calls close() exists.
            self.close()
            raise

    def close(self) -> None:
        """Stop producing and give the connection back; more than once is harmless."""
        self._closed = True
        session, self._session = self._session, None
        try:
            close_chunks = getattr(self._chunks, "close", None)
            if close_chunks is not None:
                close_chunks()
        finally:
            if session is not None:
                self._close_session(session)
