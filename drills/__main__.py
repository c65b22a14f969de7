"""Run the drills: `python -m drills [--only NAME]... [--short]`."""

import argparse
import sys

from drills import flood, outage, restart
from drills.report import Figure, as_text, missed

TITLES = {
    "restart": "Restart drill, pyramid_dbpool",
    "usual": "Restart drill, the usual pattern (for comparison)",
    "flood": "Flood drill",
    "outage": "Long outage",
}


def run(name: str, short: bool) -> list[Figure]:
    """Run a drill."""
    if name == "restart":
        return restart.drill("main", 12 if short else 30)
    if name == "usual":
        return restart.drill("usual", 12 if short else 30)
    if name == "flood":
        return flood.drill(3 if short else 10)
    return outage.drill(20 if short else 60)


def main() -> int:
    """Run what the command line asks for; fail if the plugin misses a target."""
    parser = argparse.ArgumentParser(
        prog="python -m drills", description="Let the database fail under the example app."
    )
    parser.add_argument("--only", action="append", choices=TITLES, help="may be repeated")
    parser.add_argument("--short", action="store_true", help="a shorter form of each")
    wanted = parser.parse_args()
    short_of = 0
    for name in wanted.only or TITLES:
        figures = run(name, wanted.short)
        print(as_text(TITLES[name], figures), end="\n\n", flush=True)
        short_of += len(missed(figures)) if name != "usual" else 0
    print(f"{short_of} figures of pyramid_dbpool fall short of their targets")
    return 1 if short_of else 0


if __name__ == "__main__":
    sys.exit(main())
