"""Embeddings that are too large or too small for the stream that they enter."""

from __future__ import annotations

from leadline.check.evidence import Evidence
from leadline.check.verdict import Verdict, VerdictRule, rule
from leadline.check.wording import quoted, times

__all__ = ["embedding_scale"]

_EPS_SHARE = 1.0
_NORMS = ("layer_norm", "rms_norm")


@rule(
    "embedding-scale",
    quantity="share of the last residual stream that is still the embedding",
    thresholds={"error": 0.999, "warning": 0.99},
    reason="""
    In a network with the norm inside its branches the embedding stays on the stream beside what the blocks add. An
    embedding that is far larger than all branches together hides them: depth does nothing at the start, and the
    gradients of the blocks are small by the same factor. One that is smaller than the eps of the first norm is not
    normalized at all.
    """,
    source="Takase et al. (2023), Spike no more: stabilizing the pre-training of large language models",
)
def embedding_scale(self: VerdictRule, evidence: Evidence) -> list[Verdict]:
    """Judge the kernel of the embeddings against the stream's end and against the first norm's eps."""
    embeddings = [p for p in evidence.points if p.op == "embedding"]
    if not embeddings:
        return []
    largest = max(embeddings, key=lambda p: evidence.value(p, "kernel") or 0.0)
    found = [*_hides(self, evidence, largest.step), *_below_eps(self, evidence, largest.step)]
    return found[:1]


def _hides(self: VerdictRule, evidence: Evidence, step: str) -> list[Verdict]:
    spine = evidence.spine()
    embedding = evidence.at(step)
    before_branch = next((i for i, p in enumerate(spine) if p.op in _NORMS), None)
    adds = [p for i, p in enumerate(spine) if p.op == "add" and (before_branch is None or i < before_branch)]
    kernel = evidence.value(embedding, "kernel") if embedding is not None else None
    # A stream that is normalized after its sums forgets the embedding's size.
    if embedding is None or not kernel or len(adds) < 3:
        return []
    end = evidence.value(adds[-1], "kernel")
    if not end or kernel / end <= self.thresholds["warning"] or kernel < 4.0:
        return []
    share = min(kernel / end, 1.0)
    severity = "error" if share > self.thresholds["error"] else "warning"
    message = (
        f"embedding too large: the kernel of {quoted(embedding)} is {times(kernel)}, and all blocks together add only "
        f"{times(max(end - kernel, 0.0))} to it, so {share:.1%} of the last stream is the embedding itself."
    )
    remedy = f"Multiply the embedding by {times(kernel**-0.5)} (or draw it with a standard deviation of 1 or less)."
    return [self.verdict(severity, embedding.name, share, message, remedy)]


def _below_eps(self: VerdictRule, evidence: Evidence, step: str) -> list[Verdict]:
    norm = next((p for p in evidence.points if p.op in _NORMS and p.eps), None)
    embedding = evidence.at(step)
    kernel = evidence.value(embedding, "kernel") if embedding is not None else None
    if norm is None or embedding is None or kernel is None or norm.eps is None or kernel > _EPS_SHARE * norm.eps:
        return []
    message = (
        f"embedding too small: the kernel of {quoted(embedding)} is {times(kernel)}, below the eps "
        f"{times(norm.eps)} of "
        f"{quoted(norm)}, which therefore does not normalize it."
    )
    remedy = "Draw the embedding with a standard deviation of at least 0.02, or scale it up before the first norm."
    severity = "error" if kernel < 0.1 * norm.eps else "warning"
    return [self.verdict(severity, embedding.name, kernel, message, remedy)]
