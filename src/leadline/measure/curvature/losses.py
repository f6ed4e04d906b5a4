"""The losses that are trained on, as differentiable functions of a network's output and the targets."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from leadline.program.errors import UserError, describe_tensor, plain

__all__ = ["LOSSES", "TrainingLoss", "training_loss"]

TrainingLoss = str | Callable[[Tensor, Tensor], Tensor]
LOSSES = ("cross_entropy", "mse")


def training_loss(loss: TrainingLoss, output: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of an output, with a graph for its derivatives.

    Args:
        loss: "cross_entropy" (classes on the last axis, or on axis 1 as torch has it), "mse" (mean over every entry,
            as torch has it), or a function of (output, targets) that returns one number.
        output: what the network returned.
        targets: class numbers or probabilities for the cross entropy, else of the output's shape.

    Returns:
        A scalar tensor.

    Raises:
        UserError: no such loss, targets that do not fit the output, or a function that does not return one number.
    """
    targets = targets.to(output.device)
    if callable(loss):
        value = loss(output, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = describe_tensor(value) if isinstance(value, Tensor) else plain(type(value).__name__)
            raise UserError(f"the loss returned {got}, expected a tensor with one number: reduce it with .mean().")
        return value.reshape(())
    if loss == "mse":
        if targets.shape != output.shape and targets.numel() == output.numel():
            targets = targets.reshape(output.shape)
        if targets.shape != output.shape:
            raise UserError(_fit(output, targets, f"one number an output, shape {tuple(output.shape)}"))
        return F.mse_loss(output, targets.to(output.dtype))
    if loss == "cross_entropy":
        return _cross_entropy(output, targets)
    raise UserError(f"there is no loss '{plain(loss)}', expected {' or '.join(LOSSES)}: name one of these.")


def _cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    if output.dim() < 2:
        raise UserError(_fit(output, targets, "an output with an axis of classes"))
    if targets.is_floating_point():
        if targets.shape != output.shape:
            raise UserError(_fit(output, targets, f"class numbers, or probabilities of shape {tuple(output.shape)}"))
        return F.cross_entropy(output.flatten(0, -2), targets.flatten(0, -2).to(output.dtype))
    if output.shape[:-1] == targets.shape:
        logits = output.flatten(0, -2)
    elif output.shape[0] == targets.shape[0] and output.shape[2:] == targets.shape[1:]:
        logits = output.movedim(1, -1).flatten(0, -2)
    else:
        raise UserError(_fit(output, targets, f"class numbers of shape {tuple(output.shape[:-1])}"))
    used = targets[targets != -100]
    if used.numel() == 0 or int(used.min()) < 0 or int(used.max()) >= logits.shape[-1]:
        raise UserError(
            f"the targets hold class numbers outside 0 … {logits.shape[-1] - 1}, expected those of "
            f"{logits.shape[-1]} classes: check them."
        )
    return F.cross_entropy(logits, targets.flatten().long())


def _fit(output: Tensor, targets: Tensor, expected: str) -> str:
    return (
        f"the targets {describe_tensor(targets)} do not fit the output {describe_tensor(output)}, expected {expected}: "
        "give the targets of this very batch."
    )
