"""The servers that the tests run against: real ones, private to one run, on free ports.

`fixtures` offers them to tests; the environment may offer its own instead (TEST_POSTGRES_URL,
TEST_MARIADB_URL, TEST_RABBITMQ_URL: URLs of an administrator).
"""
