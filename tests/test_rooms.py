"""The shape of the house: rooms import only from rooms above them, files are short and say what they are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import leadline

PACKAGE = Path(leadline.__file__).parent
# fmt: off
ROOMS = [
    "gaussian", "activations", "plot", "program", "rules", "theory", "measure", "flow", "check",
    "kernels", "tune", "optim", "bounds", "zoo", "atlas", "report", "cli", "testing",
]
# fmt: on
LONGEST_FILE = 400
FILES = sorted(PACKAGE.rglob("*.py"))
SUBPACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def room_of(relative: Path) -> str | None:
    """Name the room of a file given relative to the package, or None for the package's own front modules."""
    first = relative.parts[0].removesuffix(".py")
    return first if first in ROOMS else None


def imported_modules(source: str, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """List (line, absolute module) for each import of `source`, a module that lives in `package`.

    Imports inside functions count too: a late import is still a dependence.
    """
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def order_violations(source: str, relative: Path) -> list[str]:
    """Say which imports of `source`, a file at `relative` in the package, go against the order."""
    room = room_of(relative)
    if room is None:
        return []
    wrong = []
    for line, module in imported_modules(source, ("leadline", *relative.parts[:-1])):
        parts = module.split(".")
        if parts[0] != "leadline" or len(parts) == 1:
            continue
        if parts[1] in ROOMS and ROOMS.index(parts[1]) > ROOMS.index(room):
            wrong.append(f"{relative}:{line}: {room} may not import {parts[1]}, which comes after it")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_above_it(path: Path) -> None:
    assert order_violations(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import leadline.theory",
        "import leadline.theory.flow as flow",
        "from leadline.theory import kernel_flow",
        "from leadline import theory",
        "from ..theory import kernel_flow",
        "from .. import theory",
        "def late():\n    from leadline.cli import main",
        "if TYPE_CHECKING:\n    from leadline.check.report import Report",
    ],
)
def test_the_order_is_really_checked(source: str) -> None:
    assert len(order_violations(source, Path("rules/dense.py"))) == 1
    assert order_violations(source, Path("testing.py")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from . import base",
        "from .base import Rule",
        "from ..gaussian import expectation",
        "import torch",
        "import leadline.rules.base",
    ],
)
def test_imports_from_above_are_allowed(source: str) -> None:
    assert order_violations(source, Path("rules/dense.py")) == []


@pytest.mark.parametrize("path", SUBPACKAGES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_subpackage_says_what_it_is(path: Path) -> None:
    tree = ast.parse((path / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name}/__init__.py has no docstring"
    assert "__all__" in assigned_names(tree), f"{path.name}/__init__.py has no __all__"


def assigned_names(tree: ast.Module) -> set[str]:
    """Collect the names that a module assigns at its top level."""
    names: set[str] = set()
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short_and_described(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n") + 1
    assert lines <= LONGEST_FILE, f"{path.name} has {lines} lines, more than {LONGEST_FILE}: split it by subject"
    assert ast.get_docstring(ast.parse(text)), f"{path.name} has no docstring"


def test_every_room_is_on_the_list() -> None:
    unknown = {path.name for path in SUBPACKAGES if path.parent == PACKAGE} - set(ROOMS)
    assert not unknown, f"{sorted(unknown)} are not in the list of rooms: give each a place in its order"
