"""What the first words of a statement tell."""

import time

import pytest

from pyramid_dbpool.drivers.statements import changes_nothing, commits, commits_alone, first_word


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("select 1", "SELECT"),
        ("INSERT\nINTO rows", "INSERT"),
        ("/* a\n comment */ -- another\n ((Select 1))", "SELECT"),
        ("# MariaDB's\nUPDATE rows", "UPDATE"),
        ("", ""),
        ("-- nothing", ""),
    ],
)
def test_the_first_word_stands_behind_blanks_comments_and_parentheses(
    statement: str, word: str
) -> None:
    """In capitals."""
    assert first_word(statement) == word


@pytest.mark.parametrize(
    ("statement", "dialect", "does"),
    [
        ("commit", "sqlite", True),
        ("END", "postgresql", True),
        ("PREPARE TRANSACTION 'x'", "postgresql", True),
        ("PREPARE x AS SELECT 1", "postgresql", False),
        ("INSERT INTO rows VALUES (1); COMMIT", "postgresql", True),
        ("DO $$ BEGIN NULL; END $$", "postgresql", False),
        ("CREATE TABLE t (a int)", "postgresql", False),
        ("CREATE TABLE t (a int)", "mariadb", True),
        ("TRUNCATE t", "mysql", True),
        ("SET autocommit = 1", "mysql", True),
        ("SET NAMES utf8mb4", "mysql", False),
        ("XA COMMIT 'x'", "mariadb", True),
        ("EXECUTE stored", "mysql", True),
        ("EXECUTE stored", "postgresql", False),
        ("INSERT INTO rows VALUES (1)", "mysql", False),
        ("SELECT commit FROM rows", "postgresql", False),
    ],
)
def test_what_commits(statement: str, dialect: str, does: bool) -> None:
    """COMMIT, and what MariaDB says COMMIT before."""
    assert commits(statement, dialect) is does


@pytest.mark.parametrize(
    ("statement", "begins", "does"),
    [
        ("INSERT INTO rows VALUES (1)", "", False),
        ("INSERT INTO rows VALUES (1)", None, True),
        ("WITH a AS (SELECT 1) INSERT INTO rows SELECT * FROM a", "", True),
        ("CREATE TABLE t (a int)", "", True),
        ("SAVEPOINT a", "IMMEDIATE", True),
        ("SELECT 1", None, False),
        ("BEGIN", None, False),
        ("PRAGMA foreign_keys", "", False),
    ],
)
def test_what_sqlite_stores_outside_of_a_transaction(
    statement: str, begins: str | None, does: bool
) -> None:
    """Whatever its driver does not begin one for."""
    assert commits_alone(statement, begins=begins) is does


@pytest.mark.parametrize(
    ("statement", "harmless"),
    [
        ("(SELECT 1)", True),
        ("SELECT * FROM rows FOR\nUPDATE", False),
        ("SELECT * FROM rows LOCK IN SHARE MODE", False),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("WITH a AS (SELECT 1) INSERT INTO rows SELECT * FROM a", False),
        ("WITH a AS (SELECT 1) SELECT * FROM a, rows FOR UPDATE", False),
        ("SET STATEMENT max_statement_time = 1 FOR DELETE FROM rows", False),
        ("SELECT * FROM rows WHERE text = 'delete'", True),
        ("SAVEPOINT a", True),
        ("CALL p()", False),
        ("/* x */ INSERT INTO rows VALUES (1)", False),
        ("", False),
    ],
)
def test_what_changes_nothing(statement: str, harmless: bool) -> None:
    """Whatever is not known to be harmless may change something."""
    assert changes_nothing(statement) is harmless


def test_a_text_of_blanks_takes_no_time() -> None:
    """The pattern has one way only to go wrong."""
    began = time.process_time()
    assert first_word(" (\n" * 10_000 + "1") == ""
    assert time.process_time() - began < 1
