"""Parameters that the output does not depend on."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.program.errors import plain

__all__ = ["unused_parameters"]

_SHOWN = 3


@rule(
    "unused-parameters",
    quantity="number of parameters without a path to the output",
    thresholds={"note": 0.0},
    reason="""
    A parameter without a path to the output never gets a gradient. Often that is meant (a pooler that a head does not
    use); else a layer was built and not called. Distributed training waits for such gradients and stops.
    """,
    source="PyTorch documentation, DistributedDataParallel, find_unused_parameters",
)
def unused_parameters(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Name them."""
    if not evidence.unused:
        return []
    shown = ", ".join(f"`{plain(n, 60)}`" for n in evidence.unused[:_SHOWN])
    more = f" and {len(evidence.unused) - _SHOWN} more" if len(evidence.unused) > _SHOWN else ""
    layer = evidence.unused[0].rpartition(".")[0]
    message = f"unused parameters: the output does not depend on {shown}{more}."
    remedy = "Call these layers or remove them, unless another output uses them."
    return [self.verdict("note", layer or None, float(len(evidence.unused)), message, remedy)]
