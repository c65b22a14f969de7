"""Elements of a page as plain lists: to be sent as JSON, and to be written as HTML.

The browser makes the same of them as `html` does: names and attributes are the page's own, and
all that comes from elsewhere is text, which is never read as markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["Element", "el", "html"]

# [name, attributes, *children]; a child that is text is a string.
Element = list[Any]

_VOID = frozenset({"input", "br"})


def el(name: str, attributes: Mapping[str, Any] | None = None, *children: Any) -> Element:
    """Make an element.

    :param name: its name; `name.one.two` has the classes one and two.
    :param attributes: True for one without a value; None and False for one that is not there.
    :param children: texts, numbers and elements; None and False are left out.

    >>> el("p.big", {"hidden": True, "title": None}, "1 < 2", None)
    ['p', {'class': 'big', 'hidden': ''}, '1 < 2']
    """
    name, *classes = name.split(".")
    made: dict[str, str] = {"class": " ".join(classes)} if classes else {}
    for key, value in (attributes or {}).items():
        if value is not None and value is not False:
            made[key] = "" if value is True else str(value)
    kept = [child for child in children if child is not None and child is not False]
    return [name, made, *(c if isinstance(c, list) else str(c) for c in kept if c != "")]


def html(node: Element | str) -> str:
    """Write an element as HTML.

    >>> html(["p", {"title": '"'}, "1 < 2"])
    '<p title="&quot;">1 &lt; 2</p>'
    """
    if isinstance(node, str):
        return escape(node, quote=False)
    name, attributes, *children = node
    words = "".join(
        f' {key}="{escape(value)}"' if value else f" {key}" for key, value in attributes.items()
    )
    if name in _VOID:
        return f"<{name}{words}>"
    return f"<{name}{words}>{''.join(map(html, children))}</{name}>"
