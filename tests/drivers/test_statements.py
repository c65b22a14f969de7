"""What the first words of a statement tell."""

import time

import pytest

from pyramid_dbpool.drivers.statements import (
    changes_nothing,
    commits,
    commits_alone,
    first_word,
    is_plain_read,
    savepoint,
    surely_commits,
    undone_if_failed,
    writes,
)


@pytest.mark.parametrize(
    ("statement", "is_one"),
    [
        ("select a from t", True),
        ("SELECT a FROM t FOR UPDATE", False),
        ("SELECT a FROM t FOR KEY SHARE", False),
        ("SELECT a FROM t LOCK IN SHARE MODE", False),
        ("SELECT GET_LOCK('a', 1)", False),
        ("SELECT pg_notify('a', 'b')", False),
        ("SELECT 1; COMMIT", False),
        ("/* all */ SELECT 1", False),
        ("WITH a AS (SELECT 1) SELECT * FROM a", False),
        ("INSERT INTO t VALUES (1)", False),
    ],
)
def test_what_only_reads_for_certain(statement: str, is_one: bool) -> None:
    """The usual statement is looked at no further; one that may do more is."""
    assert is_plain_read(statement) is is_one


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
        ("XA BEGIN 'x'", "mariadb", False),
        ("XA END 'x'", "mariadb", False),
        ("XA ROLLBACK 'x'", "mariadb", False),
        ("/* x */ xa start 'x'", "mysql", False),
        ("XA PREPARE 'x'", "mariadb", True),
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
    ("statement", "dialect", "does"),
    [
        ("commit", "sqlite", True),
        ("PREPARE TRANSACTION 'x'", "postgresql", True),
        ("PREPARE x AS SELECT 'transaction'", "postgresql", False),
        ("PREPARE x FROM 'START TRANSACTION'", "mysql", False),
        ("INSERT INTO rows VALUES (1); COMMIT -- all", "postgresql", True),
        ("INSERT INTO rows VALUES (1); COMMIT; INSERT INTO rows VALUES (2)", "mysql", False),
        ("INSERT INTO rows VALUES ('a;commit')", "mysql", False),
        ("INSERT INTO rows VALUES ('\\';commit')", "mysql", False),
        ("INSERT INTO rows VALUES (1) /* ;commit */", "mysql", False),
        ("DO $$ BEGIN NULL; COMMIT; END $$", "postgresql", False),
        ("CREATE TABLE t (a int)", "postgresql", False),
        ("CREATE TABLE t (a int)", "mariadb", True),
        ("CREATE OR REPLACE TABLE t (a int)", "mariadb", True),
        ("CREATE TEMPORARY TABLE t (a int)", "mariadb", False),
        ("create or replace /* x */ temporary table t (a int)", "mysql", False),
        ("DROP TEMPORARY TABLE t", "mysql", False),
        ("DROP TABLE t", "mysql", True),
        ("CALL p()", "mysql", False),
        ("EXECUTE IMMEDIATE 'COMMIT'", "mariadb", False),
        ("LOAD DATA INFILE 'x' INTO TABLE t", "mysql", False),
        ("BEGIN", "mysql", True),
        ("BEGIN NOT ATOMIC COMMIT; END", "mariadb", False),
        ("ANALYZE TABLE t", "mariadb", True),
        ("ANALYZE FORMAT=JSON SELECT 1", "mariadb", False),
        ("XA END 'x'", "mysql", False),
        ("XA COMMIT 'x'", "mysql", True),
        ("SET autocommit = 1", "mysql", True),
        ("SET @@session.autocommit := ON", "mysql", True),
        ("SET autocommit = 0", "mysql", False),
        ("SET @a = 'autocommit = 1'", "mysql", False),
        ("SET STATEMENT autocommit = 1 FOR SELECT 1", "mysql", False),
    ],
)
def test_what_surely_commits(statement: str, dialect: str, does: bool) -> None:
    """What a procedure, or a literal, only may do does not count."""
    assert surely_commits(statement, dialect) is does


@pytest.mark.parametrize(
    ("statement", "does"),
    [
        ("WITH a AS (SELECT replace(x, 'a', 'b') AS x FROM t) SELECT * FROM a", False),
        ("WITH a AS (SELECT INSERT (x, 1, 2, 'b') FROM t) SELECT * FROM a", False),
        ("WITH a AS (SELECT 1) REPLACE INTO t SELECT * FROM a", True),
        ("WITH a AS (SELECT 'it''s an update' AS x) SELECT x FROM a", False),
        ('WITH a AS (SELECT 1 AS "update", `delete`) SELECT * FROM a', False),
        ("WITH a AS (SELECT $x$ delete it's $ $x$) SELECT * FROM a", False),
        ("WITH a AS (SELECT $$it's$$) DELETE FROM t WHERE x = 'y'", True),
        ("WITH a AS (SELECT 'c:\\') DELETE FROM t WHERE x = 'y'", True),
        ("WITH a AS (SELECT x #> '{a}') DELETE FROM t", True),
        ("/* delete? */ WITH a AS (SELECT 1) -- or don't update\nSELECT * FROM a", False),
        ("WITH a AS (SELECT 1) -- don't\nDELETE FROM t WHERE x = 'y'", True),
        ("WITH a AS (SELECT 1) /*! DELETE FROM t */", True),
        ("EXPLAIN DELETE FROM t", False),
        ("EXPLAIN QUERY PLAN UPDATE t SET a = 1", False),
        ("EXPLAIN ANALYZE DELETE FROM t", True),
        ("EXPLAIN (VERBOSE, ANALYZE) DELETE FROM t", True),
        ("EXPLAIN ANALYZE SELECT 1", False),
        ("SHOW GRANTS FOR UPDATE", False),
        ("SHOW CREATE TABLE update", False),
        ("SET x = 'update'", False),
        ("SET STATEMENT max_statement_time = 1 FOR INSERT INTO t VALUES (1)", True),
        ("SELECT 1; DELETE FROM t", True),
        ("SELECT ';', x FROM t WHERE x = 'delete'", False),
        ("ANALYZE FORMAT=JSON DELETE FROM t", True),
        ("ANALYZE SELECT 1", False),
        ("BEGIN NOT ATOMIC CALL p(); END", True),
        (
            "CREATE TEMP TABLE t (a int REFERENCES o ON DELETE CASCADE) ON COMMIT DELETE ROWS",
            False,
        ),
        ("CREATE OR REPLACE TEMPORARY TABLE t (a int)", False),
        ("CREATE TEMP TABLE t AS WITH a AS (DELETE FROM o RETURNING *) SELECT * FROM a", True),
        ("DROP TEMPORARY TABLE t", False),
        ("CREATE TABLE temporary (a int)", True),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", True),
        ("CALL p()", True),
    ],
)
def test_what_writes(statement: str, does: bool) -> None:
    """A word counts only where it is one of SQL's and has something done."""
    assert writes(statement) is does


@pytest.mark.parametrize(
    ("statement", "means"),
    [
        ("SAVEPOINT a;", ("SAVEPOINT", "a")),
        ("/* x */ savepoint A -- y", ("SAVEPOINT", "a")),
        ('SAVEPOINT "A b"', ("SAVEPOINT", "A b")),
        ("SAVEPOINT `A`", ("SAVEPOINT", "A")),
        ("ROLLBACK TO a", ("ROLLBACK", "a")),
        ("ROLLBACK WORK TO\nSAVEPOINT A ; ", ("ROLLBACK", "a")),
        ("rollback transaction to savepoint a /* x */", ("ROLLBACK", "a")),
        ("RELEASE a", ("RELEASE", "a")),
        ("RELEASE SAVEPOINT a", ("RELEASE", "a")),
        ("ROLLBACK", None),
        ("SAVEPOINT a; INSERT INTO t VALUES (1)", None),
        ("", None),
    ],
)
def test_what_is_done_with_a_savepoint(statement: str, means: tuple[str, str] | None) -> None:
    """However it is spelt; a name in quotes keeps its case."""
    assert savepoint(statement) == means


@pytest.mark.parametrize(
    ("statement", "is_undone"),
    [
        ("INSERT INTO t VALUES (1), (2)", True),
        ("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)", False),
        ("CALL p()", False),
        ("BEGIN NOT ATOMIC INSERT INTO t VALUES (1); END", False),
        ("LOAD DATA INFILE 'x' INTO TABLE t", False),
    ],
)
def test_what_leaves_nothing_if_it_fails(statement: str, is_undone: bool) -> None:
    """A procedure that has failed may have written before."""
    assert undone_if_failed(statement) is is_undone


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


@pytest.mark.parametrize(
    "text",
    [
        " (\n" * 10_000 + "1",
        "/* a */ " * 40 + "1",
        "-- a\n# b\n" * 5_000 + "{call p()}",
        "/* " * 10_000,
    ],
)
def test_a_text_without_a_word_takes_no_time(text: str) -> None:
    """The pattern has one way only to go wrong."""
    began = time.process_time()
    assert first_word(text) == ""
    assert time.process_time() - began < 1


@pytest.mark.parametrize("noise", ["'", '"', "/* ", "/* a */ ", "$a$ ", "-- ", "; commit ", "\n"])
def test_nor_does_one_full_of_marks(noise: str) -> None:
    """What is not closed is looked for once."""
    text = "WITH update " + noise * 10_000
    began = time.process_time()
    for ask in (writes, changes_nothing, savepoint, undone_if_failed):
        ask(text)
        ask("SAVEPOINT a " + text)
    surely_commits(text, "mysql")
    assert time.process_time() - began < 1
