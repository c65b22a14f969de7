"""The settings of a pool and of an app: declared once, coerced, checked, masked."""

from ..secrets import mask_url, scrub
from .declare import SETTINGS
from .keys import copied
from .load import load_app, load_pool
from .pools import AppSettings, PoolSettings
from .reference import reference
from .server import FALLBACK_NAME, NAMED_DRIVERS
from .setting import Setting

__all__ = [
    "FALLBACK_NAME",
    "NAMED_DRIVERS",
    "SETTINGS",
    "AppSettings",
    "PoolSettings",
    "Setting",
    "copied",
    "load_app",
    "load_pool",
    "mask_url",
    "reference",
    "scrub",
]
