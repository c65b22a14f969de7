"""The program of administrators: each command bootstraps the app and never ends its request.

python -m tests.support.h_shape.commands INI user add NAME
"""

import sys
from collections.abc import Callable

import click
from pyramid.paster import bootstrap
from pyramid.request import Request
from sqlalchemy.exc import IntegrityError

Bootstrap = Callable[[], Request]


def bootstrapped(ini: str) -> Request:
    """Return a request of the app; who has asked for it drops what would end it."""
    request = Request.blank("/", base_url="http://localhost")
    env = bootstrap(ini, request=request)
    request.root = env["root"]
    return request


@click.group()
def cli() -> None:
    """Manage the app."""


@cli.group()
def user() -> None:
    """Manage users."""


@user.command()
@click.argument("name")
@click.pass_obj
def add(make_request: Bootstrap, name: str) -> None:
    """Create a user."""
    request = make_request()
    request.find_service("users").sign_up(name)
    try:
        request.tm.commit()
    except IntegrityError as error:
        raise click.ClickException(f"could not create {name}") from error
    click.echo(f"{name} created")


@user.command()
@click.argument("name")
@click.pass_obj
def admin(make_request: Bootstrap, name: str) -> None:
    """Make a user an admin."""
    request = make_request()
    found = request.find_service("users").get(name)
    if found is None:
        raise click.ClickException(f"no user {name}")
    found.admin = True
    request.tm.commit()
    click.echo(f"{name} is an admin")


@user.command("import")
@click.argument("names", nargs=-1)
@click.pass_obj
def import_(make_request: Bootstrap, names: list[str]) -> None:
    """Create users, two in a transaction, and skip what is there."""
    request = make_request()
    users = request.find_service("users")
    for number, name in enumerate(names, 1):
        if users.get(name) is None:
            users.sign_up(name)
        if number % 2 == 0:
            request.db.flush()
            request.tm.commit()
    request.tm.commit()


@cli.command()
@click.pass_obj
def count(make_request: Bootstrap) -> None:
    """Say how many annotations there are, and end nothing."""
    click.echo(make_request().find_service("annotations").count())


if __name__ == "__main__":
    ini = sys.argv.pop(1)
    cli(obj=lambda: bootstrapped(ini))
