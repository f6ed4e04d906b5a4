"""The contract of a rule, and the registry that finds rules by operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from leadline.program import Step
from leadline.rules.expr import NoRule
from leadline.rules.state import Cotangent, Fixed, State, Weight

if TYPE_CHECKING:
    from leadline.rules.context import Context

__all__ = ["RULES", "NoRule", "Rule", "Value", "rule", "rule_for"]

Value = State | Fixed | Weight


class Rule(ABC):
    """How one operator moves a state forward and a cotangent backward.

    ``silent``: the step only rearranges (views, copies): it gets no row of its own. ``cites``: citation keys.
    """

    silent: bool = False
    cites: Sequence[str] = ()

    @abstractmethod
    def forward(self, step: Step, ctx: Context) -> Value | Sequence[Value]:
        """State after the step; its points are ``step.points`` in that order.

        Raises:
            NoRule: the operands are of a form that the rule does not cover; the step is then drawn.
        """

    @abstractmethod
    def adjoint(self, step: Step, cotangent: Cotangent, ctx: Context) -> dict[str, Cotangent]:
        """Derivative with respect to each random input, by node name, given that of the (first) output.

        The derivative is summed over channels, so a dense layer multiplies it by its C_W whatever its widths are.
        """

    def susceptibility(self, step: Step, ctx: Context) -> tuple[float, float] | None:
        """Growth (chi_parallel, chi_perp) of the second moment when the one random input is rescaled, or changed at random.

        Returns:
            None where the step has several random inputs or mixes points: the chain of susceptibilities starts anew there.
        """
        return (1.0, 1.0) if self.silent else None


RULES: dict[str, Rule] = {}


def rule(*ops: str, cites: Sequence[str] = ()) -> Callable[[type[Rule]], type[Rule]]:
    """Register a rule for canonical operator names."""

    def register(cls: type[Rule]) -> type[Rule]:
        instance = cls()
        instance.cites = cites
        for op in ops:
            RULES[op] = instance
        return cls

    return register


def rule_for(step: Step) -> Rule | None:
    """The rule of a step's operator, or None."""
    return RULES.get(step.op)


def argument(step: Step, *names: str) -> Any:
    """The first of several schema names that the step has (ATen calls its input ``self`` or ``input``)."""
    for name in names:
        if name in step.arguments:
            return step.arguments[name]
    raise KeyError(f"{step.op} has none of the arguments {names}; it has {sorted(step.arguments)}.")
