"""What the pages for maintainers cite is there, and the floors are those that are kept."""

import configparser
import re
from itertools import pairwise
from pathlib import Path

import pytest
from docutils.core import publish_doctree
from docutils.nodes import Text, literal, literal_block

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pyramid_dbpool"
PAGE = ROOT / "docs/architecture.rst"
PAGES = [PAGE, ROOT / "CONTRIBUTING.rst"]
# What `make wheel` makes.
MADE = {"dist/"}
FILE = re.compile(r"[\w./]+(?:/|\.(?:py|rst|cfg))(?!\w)")
# As ManagedPool, ManagedPool._do_get, shared.Source; but not RELIED_ON.
NAME = re.compile(r"(?:\w+\.)?[A-Z]\w*[a-z]\w*(?:\.\w+)?")


def cited(path: Path) -> list[str]:
    """Return what a page shows as code."""
    page = publish_doctree(path.read_text(), settings_overrides={"report_level": 5})
    return [found.astext() for found in page.findall(literal)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_is_there(page: Path) -> None:
    """In the tree or in the package; else a reader looks for it in vain."""
    files = {file for text in cited(page) for file in FILE.findall(text)} - MADE
    assert files
    assert [f for f in files if not ((ROOT / f).exists() or (PACKAGE / f).exists())] == []


def test_every_name_behind_a_file_is_in_it() -> None:
    """As the table has them: ``pool/checkout.py`` (``give_back``)."""
    page = publish_doctree(PAGE.read_text(), settings_overrides={"report_level": 5})
    pairs = [
        (file.astext(), name.astext())
        for file, name in pairwise(page.findall(literal))
        if FILE.fullmatch(file.astext()) and between(file) == " ("
    ]
    assert ("pool/checkout.py", "give_back") in pairs
    missing = [(f, n) for f, n in pairs if not defines((PACKAGE / f).read_text(), n)]
    assert missing == []


def between(node: literal) -> str:
    """Return the text after a node, up to the next one."""
    after = node.next_node(siblings=True, descend=False)
    return after.astext().replace("\n", " ") if isinstance(after, Text) else ""


def defines(code: str, name: str) -> bool:
    return re.search(rf"^\s*(?:def|class) {name}\b", code, re.MULTILINE) is not None


def test_every_name_is_defined() -> None:
    """Of a class, its methods, and a class in a module: somewhere in the package."""
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    names = [name for name in cited(PAGE) if NAME.fullmatch(name)]
    assert {"ManagedPool._do_get", "Openings.admit", "shared.Source"} < set(names)
    assert [name for name in names if not defines(code, name.rpartition(".")[2])] == []


@pytest.mark.parametrize(
    ("number", "contract", "apart"), [(0, "floors", {"embedded"}), (1, "pool", set())]
)
def test_the_drawing_is_what_the_linter_keeps(number: int, contract: str, apart: set[str]) -> None:
    """From the top, line by line; `embedded` stands apart from the tower."""
    page = publish_doctree(PAGE.read_text(), settings_overrides={"report_level": 5})
    drawing = list(page.findall(literal_block))[number].astext()
    drawn = [set(re.split(r" \| ", line.partition("  ")[0])) for line in drawing.splitlines()]
    linter = configparser.ConfigParser()
    linter.read(ROOT / ".importlinter")
    layers = linter[f"importlinter:contract:{contract}"]["layers"].split("\n")
    assert drawn == [set(layer.split(" | ")) - apart for layer in layers if layer]
