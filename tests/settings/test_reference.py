"""The table of settings for people, made from their declaration."""

import docutils.core
import pytest

from pyramid_dbpool.settings import SETTINGS, load_pool, reference
from pyramid_dbpool.settings.reference import default_text, rows


def test_the_reference_is_valid_rest_with_every_setting() -> None:
    """It renders without a warning, and nothing in it is taken for markup."""
    html = docutils.core.publish_string(
        reference(), writer="html", settings_overrides={"halt_level": 2, "report_level": 2}
    ).decode()
    for setting in SETTINGS:
        assert setting.key in html.replace('<span class="pre">', "").replace("</span>", "")
    assert "sqlalchemy.orm.Session" in html
    assert len(rows()) == len(SETTINGS)


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS if s.kind not in ("url", "key") and default_text(s)]
)
def test_a_default_may_be_written_as_it_is_shown(setting: object) -> None:
    """Copied from the reference into an ini file it changes nothing."""
    key, shown = setting.key, default_text(setting)  # type: ignore[attr-defined,arg-type]
    url = {"sqlalchemy.url": "postgresql+psycopg://web@db.example/h"}
    assert load_pool({**url, key: shown}) == load_pool(url), (key, shown)
