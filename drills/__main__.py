"""Run the drills: `python -m drills [--only NAME]... [--short]`."""

import argparse
import sys
from collections.abc import Callable

from drills import disk, failover, flood, incidents, mariadb, metrics, openings, outage, restart
from drills.report import Figure, as_text, missed

# By name: the title, and the drill; short or not.
DRILLS: dict[str, tuple[str, Callable[[bool], list[Figure]]]] = {
    "restart": (
        "Restart drill, pyramid_dbpool",
        lambda short: restart.drill("main", 12 if short else 30),
    ),
    "usual": (
        "Restart drill, the usual pattern (for comparison)",
        lambda short: restart.drill("usual", 12 if short else 30),
    ),
    "restart-mariadb": (
        "Restart drill on MariaDB",
        lambda short: mariadb.restart(12 if short else 30),
    ),
    "failover": ("Failover drill", lambda short: failover.drill(20 if short else 30)),
    "failover-mariadb": (
        "Failover drill on MariaDB",
        lambda short: mariadb.failover(20 if short else 30),
    ),
    "password": (
        "Rotated password",
        lambda short: openings.password(*((12, 6) if short else (30, 20))),
    ),
    "resolver": (
        "Resolver fails",
        lambda short: openings.resolver(*((12, 6) if short else (30, 20))),
    ),
    "disk": ("Full disk", lambda short: disk.drill(*((12, 6) if short else (30, 15)))),
    "flood": ("Flood drill", lambda short: flood.drill(3 if short else 10)),
    "metrics": ("Metrics and alerts", lambda short: metrics.drill(30 if short else 15)),
    "outage": ("Long outage", lambda short: outage.drill(20 if short else 60)),
    "incidents": ("Five incidents, through every window", lambda short: incidents.drill()),
}


def main() -> int:
    """Run what the command line asks for; fail if the plugin misses a target."""
    parser = argparse.ArgumentParser(
        prog="python -m drills", description="Let the database fail under the example app."
    )
    parser.add_argument("--only", action="append", choices=DRILLS, help="may be repeated")
    parser.add_argument("--short", action="store_true", help="a shorter form of each")
    wanted = parser.parse_args()
    short_of = 0
    for name in wanted.only or DRILLS:
        title, drill = DRILLS[name]
        figures = drill(wanted.short)
        print(as_text(title, figures), end="\n\n", flush=True)
        short_of += len(missed(figures)) if name != "usual" else 0
    print(f"{short_of} figures of pyramid_dbpool fall short of their targets")
    return 1 if short_of else 0


if __name__ == "__main__":
    sys.exit(main())
