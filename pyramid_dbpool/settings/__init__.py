"""The settings of an app and of its pools.

What there is stands in `declaration`, each setting once, as data. `load_app` and `load_pool` take
the dict that Pyramid apps have and return it read, checked and typed: `AppSettings` with its
`PoolSettings`, from which `engines` makes what it needs without looking at a string again. What is
unknown or wrong they refuse, all of it at once, each with its ini key, its value and what is
allowed. `reference` lists the settings for people.
"""

from .connect_arguments import FALLBACK_NAME, NAMED_DRIVERS
from .declaration import SETTINGS, DbpoolOptions, Setting
from .load import app_setting, copied, load_app, load_pool
from .pool_settings import AppSettings, PoolSettings
from .reference import reference

__all__ = [
    "FALLBACK_NAME",
    "NAMED_DRIVERS",
    "SETTINGS",
    "AppSettings",
    "DbpoolOptions",
    "PoolSettings",
    "Setting",
    "app_setting",
    "copied",
    "load_app",
    "load_pool",
    "reference",
]
