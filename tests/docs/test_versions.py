"""What is said to be supported is what the matrix runs."""

import re
from configparser import RawConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What pip takes from these lines: a name, perhaps an extra, and a version.
FLOOR = re.compile(r"^([\w.-]+)(?:\[\w+\])?>=([\w.]+)", re.MULTILINE)
PIN = re.compile(r"^lowest: (?:.* )?([\w.-]+)(?:\[\w+\])?==([\w.]+)$", re.MULTILINE)
SETUP, EXAMPLE, TOX = RawConfigParser(), RawConfigParser(), RawConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXAMPLE.read(ROOT / "example_app" / "setup.cfg")
TOX.read(ROOT / "tox.ini")


def test_the_lowest_versions_are_those_that_a_cell_pins() -> None:
    """A floor that nothing runs on sinks below what works."""
    floors = FLOOR.findall(SETUP["options"]["install_requires"])
    for extra, lines in SETUP["options.extras_require"].items():
        if extra not in ("test", "lint"):
            floors += FLOOR.findall(lines)
    floors += FLOOR.findall(EXAMPLE["options"]["install_requires"])
    cell = TOX["testenv"]
    assert sorted(floors) == sorted(PIN.findall(cell["deps"] + cell["commands_pre"]))
    assert len(floors) == 15


def test_each_python_has_a_cell() -> None:
    """The matrix has those of the classifiers, and the README and pip say the same."""
    cells = set(re.findall(r"3\d\d", TOX["tox"]["envlist"]))
    said = re.findall(r":: (3\.\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)
    assert cells == {version.replace(".", "") for version in said}
    assert SETUP["options"]["python_requires"] == f">={said[0]}"
    assert f"Python {said[0]} to {said[-1]}, " in (ROOT / "README.rst").read_text()


def test_the_readme_names_the_lowest_versions() -> None:
    """Of what an app has of its own, so that nobody has to look for them."""
    pins = dict(PIN.findall(TOX["testenv"]["deps"]))
    readme = (ROOT / "README.rst").read_text()
    (said,) = re.findall(r"^none\)\. (Python .*?)\n\n", readme, re.DOTALL | re.MULTILINE)
    for name in ("SQLAlchemy", "Pyramid", "pyramid_tm", "pyramid_retry"):
        assert re.search(rf"\b{name}\b[^,;]*?\b{re.escape(pins[name.replace('P', 'p')])}\b", said)
