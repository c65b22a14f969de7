"""The commands that look at a configuration: `settings` and `show`."""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from ..settings import SETTINGS, reference
from ..settings.reference import HEADINGS, rows
from .effective import Effective, app_rows, capacity_text, pool_class, pool_rows
from .errors import OK
from .ini import load
from .tables import print_json, print_table

__all__ = ["list_settings", "show"]


def list_settings(args: argparse.Namespace) -> int:
    """List every setting that there is."""
    if args.format == "json":
        names = [heading.lower() for heading in HEADINGS]
        listed = [dict(zip(names, row, strict=True)) for row in rows()]
        for row, setting in zip(listed, SETTINGS, strict=True):
            row["unit"] = setting.unit
        print_json(listed)
    elif args.format == "rst":
        print(reference(), end="")
    elif sys.stdout.isatty():
        _print_wrapped(shutil.get_terminal_size().columns)
    else:
        print_table([HEADINGS, *rows()])
    return OK


def _print_wrapped(width: int) -> None:
    """List the settings for people: a table would be several times as wide as a screen."""
    for key, value, default, meaning in rows():
        print(f"{key} = {default}".rstrip())
        for text in (meaning, f"Allowed: {value}."):
            print(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    "))


def show(args: argparse.Namespace) -> int:
    """Show the settings that hold for each pool, and where each comes from."""
    configuration = load(args.config_uri, args.config_vars)
    app, pools = app_rows(configuration), configuration.app.pools.values()
    shown = {pool.name: pool_rows(configuration, pool) for pool in pools}
    if args.format == "json":
        print_json(
            {
                "app": [_row(each) for each in app],
                "pools": [
                    {
                        "pool": pool.name,
                        "url": pool.masked_url,
                        "capacity": pool.capacity,
                        "class": pool_class(pool),
                        "settings": [_row(each) for each in shown[pool.name]],
                    }
                    for pool in pools
                ],
            }
        )
        return OK
    for pool in pools:
        print(f"Pool {pool.name}: {pool_class(pool)}, {capacity_text(pool)}; {pool.masked_url}\n")
        _print_rows(shown[pool.name])
        print()
    print("The app\n")
    _print_rows(app)
    return OK


def _row(each: Effective) -> dict[str, Any]:
    return {
        "setting": each.setting,
        "value": each.value,
        "from": each.kind,
        "where": each.where,
    }


def _print_rows(rows: Sequence[Effective]) -> None:
    print_table([("Setting", "Value", "From"), *((r.setting, r.text, r.where) for r in rows)])
