"""Run the conformance suite on all pools and put the table into the README.

    python -m benchmarks.behaviour

It takes some five minutes; `python -m tests.conformance.compare` only prints.
"""

import textwrap

from tests.conformance.adapters import ADAPTERS
from tests.conformance.compare import compare, table, totals

from .report import replace_section


def main() -> None:
    """Compare, print and publish."""
    pools = list(ADAPTERS)
    results = compare(pools)
    text = f"{table(results, pools)}\n\n{totals(results, pools)}"
    print(text)
    replace_section("behaviour", f"::\n\n{textwrap.indent(text, '    ')}")


if __name__ == "__main__":
    main()
