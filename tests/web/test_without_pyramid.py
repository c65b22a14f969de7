"""Workers and scripts use the package where there is no Pyramid."""

import pytest

from tests.support.programs import run_program

SCRIPT = """
import sys

sys.modules["pyramid"] = None  # as if it were not installed

import pyramid_dbpool
from pyramid_dbpool.web import pshell, requests, streaming

with pyramid_dbpool.unit_of_work({"sqlalchemy.url": "sqlite://"}) as session:
    assert session.connection().exec_driver_sql("SELECT 1").scalar() == 1
drivers = {"MySQLdb", "mysql", "psycopg", "psycopg2", "pymysql"}
print(sorted(name for name in drivers | {"zope.sqlalchemy"} if name in sys.modules))
"""


@pytest.mark.programs
def test_a_script_needs_no_pyramid() -> None:
    """It loads no driver that it has no use for either, as zope.sqlalchemy does."""
    assert run_program(SCRIPT).stdout.strip() == "[]"
