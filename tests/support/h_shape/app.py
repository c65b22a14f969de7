"""The web app: services on `request.db`, events after the commit, a view for errors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transaction
from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from pyramid.tweens import EXCVIEW
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from zope.interface import providedBy


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "h_users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    admin: Mapped[bool] = mapped_column(default=False)


class Annotation(Base):
    __tablename__ = "h_annotations"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    indexed: Mapped[bool] = mapped_column(default=False)


class Note(Base):
    """What was done about an annotation, or a request, and by whom."""

    __tablename__ = "h_notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    by: Mapped[str]


class Broken(Exception):
    """What fails here on purpose."""


# Services: made once for a request, and on its session for as long as that lives.


class Annotations:
    """Creates annotations, and marks them as indexed."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def create(self, text: str) -> int:
        annotation = Annotation(text=text)
        self.session.add(annotation)
        self.session.flush()
        return annotation.id

    def index(self, text: str) -> None:
        for each in self.session.scalars(select(Annotation).where(Annotation.text == text)):
            each.indexed = True

    def count(self) -> int:
        return self.session.scalar(select(func.count(Annotation.id))) or 0


class Notes:
    """Writes down who did something."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def write(self, by: str) -> None:
        self.session.add(Note(by=by))


class Users:
    """Signs users up."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def sign_up(self, name: str) -> None:
        self.session.add(User(name=name))

    def get(self, name: str) -> User | None:
        return self.session.scalars(select(User).where(User.name == name)).one_or_none()


SERVICES: dict[str, Callable[[Session], Any]] = {
    "annotations": Annotations,
    "notes": Notes,
    "users": Users,
}


def find_service(request: Request, name: str) -> Any:
    """Return a service of the request."""
    made = request.__dict__.setdefault("services", {})
    if name not in made:
        made[name] = SERVICES[name](request.db)
    return made[name]


# After the commit.


@dataclass
class AnnotationEvent:
    """An annotation was stored."""

    request: Request
    text: str


class EventQueue:
    """Tells subscribers when the request's transaction is over; one's failure is its own."""

    def __init__(self, request: Request) -> None:
        self.events: list[AnnotationEvent] = []
        request.add_response_callback(self.publish)

    def __call__(self, event: AnnotationEvent) -> None:
        self.events.append(event)

    def publish(self, request: Request, _response: Response) -> None:
        if request.exception is not None:
            return
        for each in self.events:
            for subscriber in request.registry.adapters.subscriptions([providedBy(each)], None):
                try:
                    subscriber(each)
                except Broken:
                    request.registry["reported"].append(each.text)


def index(event: AnnotationEvent) -> None:
    """Mark the annotation, in a transaction of its own."""
    with event.request.tm:
        event.request.find_service("annotations").index(event.text)


def notify(event: AnnotationEvent) -> None:
    """Write a note, in a transaction of its own; some fail."""
    with event.request.tm:
        event.request.find_service("notes").write("subscriber")
        event.request.db.flush()
        if "unlucky" in event.text:
            raise Broken


def look(event: AnnotationEvent) -> None:
    """Read outside of any transaction."""
    assert event.request.find_service("annotations").count()


def count_visit(event: NewResponse) -> None:
    """Write a note of each request, when its response is there."""
    if event.request.matched_route is not None:
        with event.request.tm:
            event.request.find_service("notes").write("response")


# Views.


def create(request: Request) -> Any:
    """Store an annotation; then tell."""
    text = request.params["text"]
    request.find_service("annotations").create(text)
    request.notify_after_commit(AnnotationEvent(request, text))
    request.add_finished_callback(note_the_end)
    if "broken" in text:
        raise Broken(text)
    return {"text": text}


def note_the_end(request: Request) -> None:
    with request.tm:
        request.find_service("notes").write("finished")


def show(request: Request) -> Any:
    return {"annotations": request.find_service("annotations").count()}


def failure(error: Broken, request: Request) -> Any:
    """Say what is stored, and store that this failed."""
    stored = request.find_service("annotations").count()
    request.db.rollback()
    with request.tm:
        request.find_service("notes").write("exception view")
    request.response.status_code = 500
    return {"error": str(error), "annotations": stored}


def rollback_on_error(handler: Callable[[Request], Any], _registry: Any) -> Any:
    """Make a tween that gives exception views a session that can be used."""

    def tween(request: Request) -> Any:
        try:
            return handler(request)
        except Exception:
            request.db.rollback()
            raise

    return tween


def create_app(_global_config: Any, **settings: Any) -> Router:
    """Make the app, for pserve and for bootstrap()."""
    config = Configurator(settings=settings)
    config.add_tween(f"{__name__}.rollback_on_error", under=EXCVIEW)
    config.add_settings(
        {
            "tm.manager_hook": lambda request: transaction.TransactionManager(),
            "tm.annotate_user": False,
        }
    )
    config.include("pyramid_retry")
    config.include("pyramid_tm")
    config.include("pyramid_dbpool")
    config.add_request_method(EventQueue, name="notify_after_commit", reify=True)
    config.add_request_method(find_service)
    config.registry["reported"] = []
    for subscriber in (index, notify, look):
        config.add_subscriber(subscriber, AnnotationEvent)
    config.add_subscriber(count_visit, NewResponse)
    config.add_route("annotations", "/annotations")
    config.add_view(create, route_name="annotations", request_method="POST", renderer="json")
    config.add_view(show, route_name="annotations", request_method="GET", renderer="json")
    config.add_exception_view(failure, context=Broken, renderer="json")
    return config.make_wsgi_app()
