"""The results as a table, as JSON and as the README's generated section."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .model import Figure

__all__ = ["Measured", "as_text", "machine", "publish", "replace_section", "write_json"]

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
README = HERE / "README.rst"


@dataclass(frozen=True)
class Measured:
    """A benchmark that was run."""

    name: str
    figures: list[Figure]
    load: float
    """The machine's run queue just before: above 1, others disturbed the measurement."""
    seconds: float
    error: str = ""


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed(package: str) -> str:
    """Return a package's name and version."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} absent"


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    packages = ("SQLAlchemy", "psycopg", "psycopg-pool", "gevent")
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(map(installed, packages)),
    }


def number(value: float | None) -> str:
    """Write a figure with three digits that count."""
    if value is None:
        return "-"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def verdict(figure: Figure) -> str:
    """Return whether the target is reached."""
    return {True: "pass", False: "SHORT", None: "-"}[figure.reached]


def shown(figure: Figure) -> str:
    """Write each pool's value."""
    unit = f" {figure.unit}" if figure.unit else ""
    parts = [f"{pool} {number(value)}{unit}" for pool, value in figure.values.items()]
    return "; ".join(parts)


def as_text(measured: Measured) -> str:
    """Write one benchmark's results for the terminal."""
    lines = [f"{measured.name} ({measured.seconds:.0f} s, load {measured.load:.2f})"]
    for figure in measured.figures:
        ratio = f", ratio {figure.ratio:.3g}" if figure.ratio is not None else ""
        lines.append(f"  {figure.what}")
        lines.append(f"    {shown(figure)}")
        lines.append(f"    target {figure.target}{ratio}: {verdict(figure)}")
        if figure.note:
            lines.append(f"    {figure.note}")
    if measured.error:
        lines.append(f"  not measured: {measured.error}")
    return "\n".join(lines)


def write_json(rows: Iterable[Measured], quick: bool) -> None:
    """Write all results, with the machine."""
    content = {"machine": machine(), "quick": quick, "rows": [asdict(row) for row in rows]}
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def as_rest(rows: Iterable[Measured]) -> str:
    """Write the results as the README shows them."""
    lines = [f":{key}: {value}" for key, value in machine().items()]
    lines += ["", ".. list-table::", "   :header-rows: 1", ""]
    header = ("work", "measured", "ratio", "target", "")
    cells = [header, *(cell for row in rows for cell in cells_of(row))]
    for row in cells:
        lines += [f"   {'*' if at == 0 else ' '} - {text}".rstrip() for at, text in enumerate(row)]
    return "\n".join(lines)


def cells_of(row: Measured) -> list[tuple[str, str, str, str, str]]:
    """Return the table's cells for one benchmark."""
    if row.error:
        return [(row.name, f"not measured: {row.error}", "", "", "-")]
    return [
        (
            figure.what,
            shown(figure),
            "" if figure.ratio is None else f"{figure.ratio:.3g}",
            figure.target,
            verdict(figure),
        )
        for figure in row.figures
    ]


def publish(rows: Iterable[Measured]) -> None:
    """Put the figures between the README's marks."""
    replace_section("figures", as_rest(rows))


def replace_section(name: str, content: str) -> None:
    """Replace what stands between two marks of the README."""
    start, end = f".. {name} start", f".. {name} end"
    before, rest = README.read_text().split(start, 1)
    after = rest.split(end, 1)[1]
    README.write_text(f"{before}{start}\n\n{content}\n\n{end}{after}")
