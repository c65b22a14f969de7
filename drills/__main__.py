"""Run the drills: `python -m drills [--only NAME]... [--seconds N]`."""

import argparse
import sys

from drills import restart
from drills.report import as_text, missed


def main() -> int:
    """Run what the command line asks for; fail if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m drills")
    parser.add_argument("--seconds", type=float, default=30.0)
    wanted = parser.parse_args()
    figures = restart.drill("main", wanted.seconds)
    print(as_text("restart, pyramid_dbpool", figures), flush=True)
    print(as_text("restart, usual", restart.drill("usual", wanted.seconds)), flush=True)
    return 1 if missed(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
