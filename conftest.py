"""Give the tests of the project and of the example app the same servers."""

pytest_plugins = ["tests.servers.fixtures"]
