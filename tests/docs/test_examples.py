"""Every Python example of the documentation runs.

The blocks of one page share a namespace, in their order, as a reader would type them. A block that cannot run
says so and why in its first line, ```` ```python no-run: needs your own data ````; a block with prompts is
checked as a doctest.
"""

from __future__ import annotations

import doctest
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md"] if path.exists()]
PAGES += sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
FENCE = re.compile(r"^(?P<indent>[ ]*)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block: its first line's number, the words after the language, and its text."""

    line: int
    note: str
    source: str


def python_blocks(text: str) -> list[Block]:
    """Find the fenced Python blocks of a Markdown page."""
    blocks = []
    for match in FENCE.finditer(text):
        language, _, note = match["info"].strip().partition(" ")
        if language in ("python", "pycon", "py"):
            body = "\n".join(line.removeprefix(match["indent"]) for line in match["body"].split("\n"))
            blocks.append(Block(text.count("\n", 0, match.start()) + 2, note.strip(), body))
    return blocks


def run_blocks(text: str, name: str) -> int:
    """Run a page's blocks in one namespace and return how many ran.

    Raises:
        ValueError: a block is marked no-run without a reason, or bears another mark.
        AssertionError: a block with prompts printed something else.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for block in python_blocks(text):
        if block.note:
            if not re.fullmatch(r"no-run: \S.*", block.note):
                raise ValueError(f"{name}:{block.line}: mark a block as 'no-run: <why>', not as '{block.note}'.")
            continue
        if block.source.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block.source, namespace, name, name, block.line - 1)
            output: list[str] = []
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            result = doctest.DocTestRunner(optionflags=flags).run(test, out=output.append, clear_globs=False)
            assert result.failed == 0, "".join(output)
            namespace.update(test.globs)
        else:
            # Leading newlines make line numbers in a traceback those of the page.
            exec(compile("\n" * (block.line - 1) + block.source, name, "exec"), namespace)  # noqa: S102
        ran += 1
    return ran


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write a file
    run_blocks(page.read_text(encoding="utf-8"), page.name)


def test_a_wrong_example_is_noticed() -> None:
    with pytest.raises(NameError):
        run_blocks("```python\nundefined_name\n```\n", "page.md")
    with pytest.raises(AssertionError, match="Expected"):
        run_blocks("```python\n>>> 1 + 1\n3\n```\n", "page.md")
    with pytest.raises(ValueError, match=r"page\.md:2: mark a block"):
        run_blocks("```python no-run\n1 / 0\n```\n", "page.md")


def test_blocks_share_a_namespace_and_others_are_left_alone() -> None:
    page = "```python\nx = 1\n```\n\n```bash\nfalse\n```\n\n- in a list:\n\n  ```python\n  >>> x\n  1\n  ```\n"
    assert run_blocks(page, "page.md") == 2
    assert run_blocks("```python no-run: needs your data\n1 / 0\n```\n", "page.md") == 0
