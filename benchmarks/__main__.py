"""Run the benchmarks: `python -m benchmarks [--quick] [--only NAME]... [--publish]`."""

import argparse
import logging
import time
import warnings

from .model import Benchmark, Run, machine_load
from .report import Measured, as_text, publish, write_json
from .rows import BENCHMARKS


def measure(benchmark: Benchmark, run: Run) -> Measured:
    """Run one benchmark; a failure is part of the results."""
    load, started = machine_load(), time.monotonic()
    try:
        figures, error = benchmark.measure(run), ""
    except Exception as failure:
        figures, error = [], f"{type(failure).__name__}: {failure}".split("\n", 1)[0]
    return Measured(benchmark.name, figures, load, time.monotonic() - started, error)


def main() -> None:
    """Run what the command line asks for and print each result as it comes."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the pool beside its peers."
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repetitions")
    parser.add_argument("--only", action="append", metavar="NAME", choices=names)
    parser.add_argument("--publish", action="store_true", help="put the figures into the README")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    # Pools that report each failed connect would measure the terminal.
    logging.disable(logging.CRITICAL)
    rows = []
    for benchmark in BENCHMARKS:
        if not wanted.only or benchmark.name in wanted.only:
            rows.append(measure(benchmark, Run(quick=wanted.quick)))
            print(as_text(rows[-1]), flush=True)
    write_json(rows, wanted.quick)
    if wanted.publish:
        publish(rows)
    short = [figure for row in rows for figure in row.figures if figure.reached is False]
    print(f"\n{len(short)} figures fall short of their targets")


if __name__ == "__main__":
    main()
