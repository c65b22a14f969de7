"""Run the example app's streamer; in the usual pattern with `usual`."""

import sys

import example_app.streamer
from drills import usual


def main() -> int:
    """Run it with the ini file of the command line."""
    pattern, *argv = sys.argv[1:]
    if pattern == "usual":
        example_app.streamer.consume = usual.consume
    return example_app.streamer.main(argv)


if __name__ == "__main__":
    sys.exit(main())
