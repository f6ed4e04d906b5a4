"""A verdict, and the registry of the rules that give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leadline.check.evidence import Evidence

__all__ = ["RULES", "SEVERITIES", "Judge", "Verdict", "VerdictRule", "rule"]

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Verdict:
    """One finding.

    ``rule``: name of the rule. ``severity``: "error" (the network will not train as it is), "warning" or "note".
    ``layer``: where the trouble starts, None where it is the whole network. ``value`` and ``threshold``: what was
    compared. ``message``, ``remedy``: one sentence each. ``source``: the work that the rule rests on.
    """

    rule: str
    severity: str
    layer: str | None
    value: float | None
    threshold: float | None
    message: str
    remedy: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """The verdict as the JSON has it."""
        return {
            "rule": self.rule, "severity": self.severity, "layer": self.layer, "value": self.value,
            "threshold": self.threshold, "message": self.message, "remedy": self.remedy, "source": self.source,
        }  # fmt: skip


Judge = Callable[["Evidence"], list[Verdict]]


@dataclass(frozen=True)
class VerdictRule:
    """A rule.

    ``quantity``: what is compared with ``thresholds``, a number by severity. ``reason``: why it matters. ``source``:
    citation. ``judge``: from evidence to verdicts.
    """

    name: str
    thresholds: Mapping[str, float]
    quantity: str
    reason: str
    source: str
    judge: Judge

    def verdict(self, severity: str, layer: str | None, value: float | None, message: str, remedy: str) -> Verdict:
        """A verdict of this rule."""
        return Verdict(self.name, severity, layer, value, self.thresholds.get(severity), message, remedy, self.source)


RULES: dict[str, VerdictRule] = {}


def rule(
    name: str, *, quantity: str, reason: str, source: str, thresholds: Mapping[str, float] | None = None
) -> Callable[[Callable[[VerdictRule, Evidence], list[Verdict]]], VerdictRule]:
    """Register a function as a rule.

    Args:
        name: of the rule, in lower case with hyphens.
        quantity: what is compared with the thresholds, in a few words.
        reason: why it matters: one paragraph.
        source: citation.
        thresholds: severity -> number; empty where there is nothing to compare.

    Returns:
        A decorator: the function takes the rule itself and the evidence and returns verdicts; its name then
        stands for the rule.
    """

    def register(judge: Callable[[VerdictRule, Evidence], list[Verdict]]) -> VerdictRule:
        made = VerdictRule(
            name, dict(thresholds or {}), quantity, " ".join(reason.split()), source, lambda e: judge(made, e)
        )
        RULES[name] = made
        return made

    return register
