"""A panel for pyramid_debugtoolbar: what a request has done with its connections.

``debugtoolbar.includes = pyramid_dbpool.debugtoolbar`` in the ini file of development; the extra
``pyramid_dbpool[debugtoolbar]`` has the toolbar. Nothing listens where it is not included.

- `recording`: what is written down of one request, and whose work is which request's.
- `watching`: has the engines and sessions of an app write it down.
- `findings`: what of it somebody ought to know first, in sentences.
- `panel`: the panel, which shows it.
"""

from typing import Any

__all__ = ["includeme"]


def includeme(config: Any) -> None:
    """Add the panel; the toolbar calls this."""
    # Here, because only the toolbar has what it imports.
    from .panel import PoolPanel  # noqa: PLC0415

    config.add_debugtoolbar_panel(PoolPanel)
