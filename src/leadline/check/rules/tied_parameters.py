"""One tensor under several names."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.program.errors import plain

__all__ = ["tied_parameters"]

_SHOWN = 3


@rule(
    "tied-parameters",
    quantity="number of names that share the tensor of another",
    thresholds={"note": 0.0},
    reason="""
    A tied tensor has one law and several fan-ins: an embedding drawn with standard deviation 1 is a fine input and, as
    an output layer of width n, multiplies the kernel by n. Its gradient is the sum over its uses.
    """,
    source="Press & Wolf (2017), Using the output embedding to improve language models",
)
def tied_parameters(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Name them."""
    if not evidence.tied:
        return []
    pairs = list(evidence.tied.items())
    shown = ", ".join(f"`{plain(a, 60)}` is `{plain(b, 60)}`" for a, b in pairs[:_SHOWN])
    more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    layer = pairs[0][0].rpartition(".")[0]
    message = f"tied parameters: {shown}{more}."
    remedy = "Nothing, if that is meant: mind that one scale has to fit all uses."
    return [self.verdict("note", layer or None, float(len(pairs)), message, remedy)]
