"""What browsers are told about every answer: what it may load, and who may show it."""

import base64
import hashlib
import re
from urllib.parse import urlsplit

from pyramid.config import Configurator
from pyramid.events import NewResponse


def includeme(config: Configurator) -> None:
    """Add the headers to every answer, errors included."""
    config.add_subscriber(add_headers, NewResponse)


def add_headers(event: NewResponse) -> None:
    """Add what an answer has not said itself."""
    # Of the toolbar that development.ini includes: it has scripts and styles of its own.
    if event.request.environ["PATH_INFO"].startswith("/_debug_toolbar/"):
        return
    headers = event.response.headers
    headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "no-referrer")


def policy_for(page: str, streamer: str) -> str:
    """Allow a page its own script and style, this server's API, and its streamer."""
    # Without a port or a host of its own, it is where the page came from.
    address = urlsplit(streamer)
    elsewhere = f" {address.scheme}://{address.netloc}" if address.netloc else ""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {hash_of(page, 'script')}",
            f"style-src {hash_of(page, 'style')}",
            "img-src data:",
            f"connect-src 'self'{elsewhere}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def hash_of(page: str, tag: str) -> str:
    """Name the one script or style of a page by what is in it: nothing else runs."""
    (content,) = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
