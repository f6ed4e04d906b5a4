"""``leadline check --explain``: every rule with its thresholds, its reason and its source."""

from __future__ import annotations

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

import leadline.check  # noqa: F401 (registers the rules)
from leadline.check.verdict import RULES
from leadline.plot.numbers import number

__all__ = ["explain"]


def explain() -> Group:
    """All rules, for a console.

    Returns:
        Something that a rich console prints.
    """
    parts: list[Text | Padding] = []
    for rule in sorted(RULES.values(), key=lambda r: r.name):
        limits = ", ".join(f"{severity} {number(value)}" for severity, value in rule.thresholds.items())
        parts.append(Text(rule.name, "bold"))
        body = Text.assemble((f"{rule.quantity}", ""), (f"  [{limits}]" if limits else "", "cyan"))
        body.append(f"\n{rule.reason}\n").append(f"Source: {rule.source}.", "dim")
        parts.append(Padding(body, (0, 0, 1, 2)))
    return Group(*parts)
