"""The declaration of every setting, and the typed classes that hold their values."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_type_hints

import pytest
import sqlalchemy
from sqlalchemy import Engine

from pyramid_dbpool.pool.options import PoolOptions
from pyramid_dbpool.settings import SETTINGS, AppSettings, DbpoolOptions, Setting, load_pool
from pyramid_dbpool.settings.values import allowed
from tests.settings.loading import FILE, some_function

OWN = [s for s in SETTINGS if s.prefix == "dbpool." and s.kind != "key"]


def test_every_setting_is_declared_once() -> None:
    """With a sentence, a default that its own reader takes, and words for what is allowed."""
    assert len({s.key for s in SETTINGS}) == len(SETTINGS)
    assert len({s.keyword for s in SETTINGS}) == len(SETTINGS), "a keyword names one setting"
    for setting in SETTINGS:
        assert setting.doc.endswith("."), setting.key
        assert allowed(setting)


def test_every_declared_key_of_sqlalchemy_is_one() -> None:
    """So that a declaration does not outlive the argument it is about."""
    source = sqlalchemy.create_engine.__doc__ or ""
    for setting in SETTINGS:
        documented = setting.keyword in source or setting.keyword == "url"
        assert setting.prefix == "dbpool." or documented, setting.key


def _type(setting: Setting) -> Any:
    """Return the type of a setting's values."""
    plain: Any = {
        "callable": Callable[[Engine], Any],
        "choice": Literal[*setting.choices] if setting.choices else str,
        "class": type[setting.base or object],
        "duration": int if setting.whole else float,
        "flag": bool,
        "folder": str,
        "identifier": str,
        "integer": int,
        "path": str,
        "text": str,
    }[setting.kind]
    return plain | None if setting.default is None or setting.off is None else plain


@pytest.mark.parametrize(
    ("options", "settings", "others"),
    [
        (DbpoolOptions, [s for s in OWN if s.scope == "pool" and not s.managed_only], set()),
        (PoolOptions, [s for s in OWN if s.managed_only], {"background", "pool_name"}),
        (AppSettings, [s for s in OWN if s.scope == "app"], {"pools"}),
    ],
)
def test_the_classes_have_a_field_of_the_right_type_for_each_setting(
    options: type, settings: list[Setting], others: set[str]
) -> None:
    """Type checkers see the fields, and nobody the setting that has none."""
    fields = get_type_hints(options)
    assert {name: fields[name] for name in fields.keys() - others} == {
        setting.keyword: _type(setting) for setting in settings
    }


def test_options_cannot_be_changed_and_show_no_secret() -> None:
    """They are everybody's, and a hook may hold a password."""
    hook = partial(some_function, "s3cret")
    options = load_pool({"sqlalchemy.url": FILE, "dbpool.engine_hook": hook}).options
    assert options.engine_hook is hook
    assert repr(options).startswith("DbpoolOptions(startup_check='off', startup_timeout=20.0,")
    assert "s3cret" not in repr(options)
    with pytest.raises(AttributeError):
        options.read_only = True  # type: ignore[misc]
