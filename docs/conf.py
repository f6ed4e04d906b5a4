"""Configuration of the documentation: one reference page a room, written as the build starts."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
from pathlib import Path

import leadline
import leadline.theory

project = "Leadline"
author = "The Leadline authors"
copyright = author
version = release = leadline.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "myst_parser",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Leadline"
exclude_patterns = ["_build"]

napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

PAGE = """# `{name}`

```{{eval-rst}}
.. automodule:: {name}
   :members:
   :imported-members:
   :show-inheritance:
```
"""


def write_reference(folder: Path) -> None:
    """Write a page for each room and leave pages that have not changed alone."""
    folder.mkdir(parents=True, exist_ok=True)
    rooms = [module.name for module in pkgutil.iter_modules(leadline.__path__) if module.name[0] != "_"]
    # the parts of the room of theory are rooms of their own to a reader
    rooms += [f"theory.{module.name}" for module in pkgutil.iter_modules(leadline.theory.__path__) if module.ispkg]
    for path in folder.glob("*.md"):
        if path.stem not in rooms:
            path.unlink()
    for room in rooms:
        importlib.import_module(f"leadline.{room}")  # a room that cannot be imported must stop the build
        path, text = folder / f"{room}.md", PAGE.format(name=f"leadline.{room}")
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


write_reference(Path(__file__).parent / "reference" / "rooms")

SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Example|Examples|Note|Warning):\s*$")
CODE = re.compile(r"(`+[^`]*`+)")
SOURCE = re.compile(r"^(\s*)Sources?: (?=\S)")


def to_markup(app, what, name, obj, options, lines) -> None:
    """Turn our docstrings into the markup's form: blank lines between parts, |x| an absolute value."""
    result: list[str] = []
    verbatim = None  # indentation of the line that opened a block of mathematics or code, while inside it
    for line in lines:
        text = line.lstrip()
        indent = len(line) - len(text)
        if verbatim is not None and text and indent <= verbatim:
            verbatim = None
        begins_example = text.startswith(">>>") and not in_example(result)
        if result and result[-1].strip() and (SECTION.match(line) or SOURCE.match(line) or begins_example):
            result.append("")
        if verbatim is None and (text.startswith(".. ") or text.endswith("::")):
            verbatim = indent
        if verbatim is None and not text.startswith(">>>") and not in_example(result):
            line = SOURCE.sub(r"\1**Source:** ", line)
            line = "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in CODE.split(line))
        result.append(line)
    lines[:] = result


def in_example(lines: list[str]) -> bool:
    """Say whether the last paragraph of `lines` holds a prompt: what follows belongs to that example."""
    paragraph = itertools.takewhile(str.strip, reversed(lines))
    return any(line.lstrip().startswith(">>>") for line in paragraph)


def setup(app) -> None:
    """Have docstrings put into markup before napoleon reads their sections."""
    app.connect("autodoc-process-docstring", to_markup, priority=100)
