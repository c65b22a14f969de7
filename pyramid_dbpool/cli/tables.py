"""Tables and JSON, as the commands print them."""

import json
from collections.abc import Sequence

__all__ = ["plain", "print_json", "print_table"]


def print_table(table: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def print_json(value: object) -> None:
    """Print a value for programs."""
    print(json.dumps(value, indent=2))


def plain(value: object) -> str:
    """Return a cell's text."""
    return "no limit" if value is None else str(value)
