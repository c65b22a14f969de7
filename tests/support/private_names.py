"""Which of SQLAlchemy's private names a module of the package uses.

Private is what begins with an underscore, and what only the private classes have whose objects
get about, such as the `fairy_ref` of a `_ConnectionRecord`.
"""

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyramid_dbpool

PACKAGE = Path(pyramid_dbpool.__file__).parent

# Where what the package gets to see is defined.
SQLALCHEMY = (
    "sqlalchemy.engine.base",
    "sqlalchemy.engine.default",
    "sqlalchemy.engine.interfaces",
    "sqlalchemy.engine.url",
    "sqlalchemy.exc",
    "sqlalchemy.orm.session",
    "sqlalchemy.pool.base",
    "sqlalchemy.pool.events",
    "sqlalchemy.pool.impl",
    "sqlalchemy.util.queue",
)
PRIVATE_CLASSES = frozenset({"_ConnectionFairy", "_ConnectionRecord"})
# What takes the name of an attribute as its second argument.
BY_NAME = frozenset({"delattr", "getattr", "hasattr", "setattr"})


def listed(path: Path) -> set[str]:
    """Return the `RELIED_ON` of a module of the package; empty if it has none."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    return set(getattr(importlib.import_module(name), "RELIED_ON", ()))


def used(path: Path) -> set[str]:
    """Return SQLAlchemy's private names that a module mentions, overrides or imports.

    A name that a class of the package gives as well, without refining one of SQLAlchemy's, is
    the package's own, but for what a class that does refine one has on `self`.
    """
    tree = _parsed(path)
    refining = _closure({**_bases(), **_bases_in(tree)})
    inherited = {
        name
        for node in _classes(tree)
        if node.name in refining
        for name in (*_defined(node), *_of_self(node))
    }
    found = set(_mentioned(tree)) - _ours() | inherited
    return found & _private() | set(_imported(tree))


@functools.cache
def _ours() -> frozenset[str]:
    refining = _closure(_bases())
    found: set[str] = set()
    for tree in _modules():
        found.update(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
        for node in _classes(tree):
            if node.name not in refining:
                found.update(_defined(node))
    return frozenset(found)


@functools.cache
def _private() -> frozenset[str]:
    hidden: set[str] = set()
    public: set[str] = set()
    for module in map(importlib.import_module, SQLALCHEMY):
        for node in _classes(ast.parse(inspect.getsource(module))):
            (hidden if node.name in PRIVATE_CLASSES else public).update(_defined(node))
    return frozenset(
        name
        for name in hidden | public
        if not name.startswith("__") and (name.startswith("_") or name not in public)
    )


@functools.cache
def _bases() -> Mapping[str, set[str]]:
    return dict(each for tree in _modules() for each in _bases_in(tree).items())


def _bases_in(tree: ast.Module) -> dict[str, set[str]]:
    """Return the names of each class's bases; SQLALCHEMY is the base of all of its own."""
    bases = {name: {"SQLALCHEMY"} for names in _imports(tree) for name in names}
    for node in _classes(tree):
        bases[node.name] = {ast.unparse(base).partition("[")[0] for base in node.bases}
    return bases


def _closure(bases: Mapping[str, set[str]]) -> frozenset[str]:
    """Return the classes that refine one of SQLAlchemy's, or are one."""
    found = {"SQLALCHEMY"}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return frozenset(found)


@functools.cache
def _modules() -> list[ast.Module]:
    return [_parsed(path) for path in PACKAGE.rglob("*.py")]


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _defined(node: ast.ClassDef) -> Iterator[str]:
    """Yield the methods and attributes that a class has of its own."""
    for inner in node.body:
        match inner:
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=[ast.Name(id="__slots__")]):
                slots = ast.literal_eval(inner.value)
                yield from [slots] if isinstance(slots, str) else slots
            case ast.Assign():
                yield from (each.id for each in inner.targets if isinstance(each, ast.Name))
    yield from _of_self(node, ast.Store)


def _of_self(node: ast.ClassDef, context: type[ast.expr_context] = ast.Load) -> Iterator[str]:
    for part in ast.walk(node):
        match part:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ctx):
                if isinstance(ctx, context):
                    yield name


def _mentioned(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                yield name
            case ast.Call(func=ast.Name(id=function), args=[_, ast.Constant(value=str(name)), *_]):
                if function in BY_NAME:
                    yield name


def _imported(tree: ast.Module) -> Iterator[str]:
    for names in _imports(tree):
        yield from (name for name in names if name.startswith("_") and name[:2] != "__")


def _imports(tree: ast.Module) -> Iterator[list[str]]:
    """Yield what is imported from SQLAlchemy, and the parts of the module's name."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), level=0):
                if module.partition(".")[0] == "sqlalchemy":
                    yield [*module.split("."), *(alias.name for alias in node.names)]
