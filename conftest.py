"""Give the tests of the project and of the example app the same servers."""

pytest_plugins = ["pytester", "tests.servers.fixtures"]
