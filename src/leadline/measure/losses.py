"""Losses of a network's output on targets: which there are, what fits them, and their value with its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from leadline.program.errors import UserError, describe_tensor, plain

__all__ = ["LOSSES", "TrainingLoss", "class_targets", "entry_targets", "first_output", "training_loss"]

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
        return F.mse_loss(output, entry_targets(output, targets).to(output.dtype))
    if loss == "cross_entropy":
        return F.cross_entropy(*class_targets(output, targets))
    raise UserError(f"there is no loss '{plain(loss)}', expected {' or '.join(LOSSES)}: name one of these.")


def entry_targets(output: Tensor, targets: Tensor) -> Tensor:
    """Targets of the squared error in the output's shape.

    Args:
        output: what the network returned.
        targets: as many numbers.

    Returns:
        The targets, on the output's device.

    Raises:
        UserError: there is not one number an output.
    """
    targets = targets.to(output.device)
    if targets.shape != output.shape and targets.numel() == output.numel():
        targets = targets.reshape(output.shape)
    if targets.shape != output.shape:
        raise UserError(_unfit(output, targets, f"one number an output, shape {tuple(output.shape)}"))
    return targets


def class_targets(output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and targets of the cross entropy, flat but for the classes.

    Args:
        output: logits, with the classes on the last axis, or on axis 1 as torch has it.
        targets: class numbers (-100: left out), or probabilities of the output's shape.

    Returns:
        Logits (N, classes), and class numbers (N,) or probabilities (N, classes) in the precision of the output.

    Raises:
        UserError: they do not fit together, or a class number is none of the classes.
    """
    if output.dim() < 2:
        raise UserError(_unfit(output, targets, "an output with an axis of classes"))
    targets = targets.to(output.device)
    if targets.is_floating_point():
        if targets.shape != output.shape:
            raise UserError(_unfit(output, targets, f"class numbers, or probabilities of shape {tuple(output.shape)}"))
        return output.flatten(0, -2), targets.flatten(0, -2).to(output.dtype)
    if output.shape[:-1] == targets.shape:
        logits = output.flatten(0, -2)
    elif output.shape[0] == targets.shape[0] and output.shape[2:] == targets.shape[1:]:
        logits = output.movedim(1, -1).flatten(0, -2)
    else:
        raise UserError(_unfit(output, targets, f"class numbers of shape {tuple(output.shape[:-1])}"))
    classes = logits.shape[-1]
    used = targets[targets != -100]
    if used.numel() == 0 or int(used.min()) < 0 or int(used.max()) >= classes:
        raise UserError(
            f"the targets hold class numbers outside 0 … {classes - 1}, expected those of {classes} classes: check them."
        )
    return logits, targets.flatten().long()


def first_output(returned: Any, *, axes: int = 0) -> Tensor:
    """The first floating-point tensor of what a model returned.

    Args:
        returned: a tensor or a nested structure, such as the outputs of the transformers library.
        axes: number of axes that it has at least.

    Returns:
        The tensor.

    Raises:
        UserError: there is none.
    """
    for leaf in pytree.tree_leaves(returned):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() >= axes:
            return leaf
    raise UserError("the model returned no floating-point tensor, so it has no loss: return its outputs.")


def _unfit(output: Tensor, targets: Tensor, expected: str) -> str:
    return (
        f"the targets {describe_tensor(targets)} do not fit the output {describe_tensor(output)}, expected {expected}: "
        "give the targets of this very batch."
    )
