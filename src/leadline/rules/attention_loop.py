"""What came back through the earlier uses of one attention's weights: the derivatives of looped blocks are dependent."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leadline.program import Step
from leadline.rules.context import Context
from leadline.rules.reuse import Use
from leadline.rules.sampling import conditional, square_root
from leadline.rules.state import Cotangent

__all__ = ["Back", "Loop"]


@dataclass
class Back:
    """One step's way back: the drawn derivative (draws, P), what it gave queries and keys, and the waves made of it."""

    delta: Tensor
    grads: dict[str, Tensor] = field(default_factory=dict)
    waves: dict[str, Hashable] = field(default_factory=dict)


@dataclass
class Loop:
    """A step among the others that use the same values' weights.

    ``before``: the uses that the derivative went through already, with its covariance with theirs (P_use, P).
    """

    use: Use | None
    cotangent: Cotangent
    before: list[tuple[Use, Tensor]]
    ctx: Context

    @classmethod
    def of(cls, uses: list[Use], step: Step, cotangent: Cotangent, ctx: Context) -> Loop:
        """The loop as it is when the derivative comes to a step.

        Returns:
            Without uses where the weights serve this step alone.
        """
        mine = next((u for u in uses if u.step is step), None) if len(uses) > 1 else None
        before = []
        for use in uses if mine is not None else ():
            if use.cotangent is not None and isinstance(use.back, Back):
                C = use.cotangent.cross(cotangent, ctx.moments)
                if C is not None:
                    before.append((use, C))
        return cls(mine, cotangent, before, ctx)

    def derivative(self, z: Tensor, total: Tensor) -> Tensor:
        """Draws of the step's derivative from standard normal ones, given those of the other steps; the same shape."""
        flat = z.reshape(-1, z.shape[-1]).to(total)
        alike = [(u, C) for u, C in self.before if u.back.delta.shape[0] == flat.shape[0]]
        if not alike:
            delta = flat @ square_root(total).T
        else:
            joint = torch.cat([torch.cat([self._between(u, v) for v, _ in alike], 1) for u, _ in alike])
            earlier = torch.cat([u.back.delta for u, _ in alike], 1)
            delta = conditional(earlier, joint, torch.cat([C for _, C in alike]), total, flat)
        if self.use is not None:
            self.use.cotangent, self.use.back = self.cotangent, Back(delta)
        return delta.reshape(z.shape).to(z)

    def _between(self, one: Use, two: Use) -> Tensor:
        C = one.cotangent.cross(two.cotangent, self.ctx.moments)  # type: ignore[union-attr, arg-type]
        return C if C is not None else one.back.delta.new_zeros(one.back.delta.shape[1], two.back.delta.shape[1])

    def tied(self, slot: str, g: Tensor, scale: float) -> tuple[tuple[Hashable, Tensor], ...]:
        """Covariances of a drawn gradient (heads, P, size) with those of the other steps, which become its ties."""
        out = []
        for use, _ in self.before:
            other = use.back.grads.get(slot)
            if other is not None and other.shape[0] == g.shape[0]:
                C = torch.einsum("hpn,hqn->pq", other, g) * (scale / g.shape[0])
                out.append((use.back.waves[slot], C.to(self.ctx.dtype)))
        return tuple(out)

    def keep(self, slot: str, wave: Hashable, g: Tensor | None = None) -> None:
        """Remember what this step made of its derivative."""
        if self.use is not None:
            self.use.back.waves[slot] = wave
            if g is not None:
                self.use.back.grads[slot] = g
