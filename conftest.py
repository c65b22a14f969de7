"""Give the tests of the project and of the example app the same servers."""

import signal

pytest_plugins = ["pytester", "tests.makers", "tests.holding", "tests.servers.fixtures"]

# Started in the background, as by `make test &`, pytest ignores Ctrl-C, and so
# would the programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
