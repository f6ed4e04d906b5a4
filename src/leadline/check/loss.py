"""The loss at initialization: measured, predicted from the output kernel, and that of a blind guess."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leadline.check.evidence import LossFacts
from leadline.measure.losses import LOSSES, TrainingLoss, class_targets, entry_targets, first_output
from leadline.program.errors import UserError, describe_tensor, one_line, plain

__all__ = ["expected_log_sum_exp", "initial_loss", "network_output"]

_SOBOL_MOST = 2_000
_NODES = 9
_VALUES = 2**20


def initial_loss(
    loss: TrainingLoss, output: Tensor, targets: Tensor, kernel: Tensor | None = None, *, seed: int = 0
) -> LossFacts:
    """Compare the loss of an output with that of the best constant guess.

    Args:
        loss: "cross_entropy", "mse" or a function of (output, targets) that returns a number.
        output: what the network returned.
        targets: class numbers or probabilities for the cross entropy, else of the output's shape.
        kernel: predicted second moment of the outputs at each point, any shape; None: no prediction.
        seed: of the quasi-random draws of the prediction.

    Returns:
        The facts; the blind guess is log C for the cross entropy, the variance of the targets for the mean
        square, and the loss of zero outputs for a function.

    Raises:
        UserError: no such loss, or targets that do not fit the output.
    """
    output = output.detach()
    if callable(loss):
        return _custom(loss, output, targets)
    if loss == "cross_entropy":
        return _cross_entropy(output, targets, kernel, seed)
    if loss == "mse":
        return _mse(output, targets, kernel)
    raise UserError(f"there is no loss '{plain(loss)}', expected {' or '.join(LOSSES)}: name one of these.")


def network_output(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """One forward pass of the network itself, without gradients.

    Args:
        model: the module, in the mode that it is in.
        args: positional arguments.
        kwargs: keyword arguments.

    Returns:
        Its first floating-point output.
    """
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    state = {**dict(model.named_parameters()), **buffers}
    # functional_call leaves running statistics of the user's own buffers as they are
    with torch.no_grad(), torch.random.fork_rng():
        return first_output(torch.func.functional_call(model, state, args, kwargs))


def _cross_entropy(output: Tensor, targets: Tensor, kernel: Tensor | None, seed: int) -> LossFacts:
    logits, targets = class_targets(output, targets)
    classes = logits.shape[-1]
    measured = float(F.cross_entropy(logits.double(), targets.double() if targets.is_floating_point() else targets))
    predicted = None if kernel is None else float(expected_log_sum_exp(kernel, classes, seed=seed).mean())
    return LossFacts("cross_entropy", measured, math.log(classes) if classes > 1 else None, predicted)


def expected_log_sum_exp(kernel: Tensor, classes: int, *, seed: int = 0) -> Tensor:
    r"""Mean cross entropy of independent Gaussian logits, at each point.

    .. math:: E \log\sum_{c=1}^C e^{f_c}, \qquad f_c \sim N(0, K)

    The logit of the right class has mean zero, so this is all of the loss.

    Args:
        kernel: variances K, any shape.
        classes: number of classes C.
        seed: of the scrambled Sobol points (plain draws beyond 2000 classes, where the mean hardly varies).

    Returns:
        Shape of `kernel`.
    """
    scale = kernel.detach().double().clamp_min(0).sqrt().flatten().cpu()
    low, high = float(scale.min()), float(scale.max())
    nodes = torch.linspace(low, high, _NODES if high > low else 1, dtype=torch.float64)
    count = max(16, min(4096, _VALUES // classes))
    if classes <= _SOBOL_MOST:
        engine = torch.quasirandom.SobolEngine(classes, scramble=True, seed=seed)
        u = engine.draw(count, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        z = torch.special.ndtri(u)
    else:
        z = torch.randn(count, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    z = torch.cat([z, -z])
    values = torch.stack([torch.logsumexp(s * z, 1).mean() for s in nodes])
    if len(nodes) == 1:
        return values.expand(scale.shape).reshape(kernel.shape)
    place = (scale - low) / (high - low) * (len(nodes) - 1)
    left = place.floor().long().clamp(max=len(nodes) - 2)
    part = place - left
    return (values[left] * (1 - part) + values[left + 1] * part).reshape(kernel.shape)


def _mse(output: Tensor, targets: Tensor, kernel: Tensor | None) -> LossFacts:
    targets = entry_targets(output, targets).double()
    measured = float(F.mse_loss(output.double(), targets))
    blind = float((targets - targets.mean(0, keepdim=True)).square().mean())
    predicted = None if kernel is None else float(kernel.double().mean()) + float(targets.square().mean())
    return LossFacts("mse", measured, blind if blind > 0 else None, predicted)


def _custom(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, targets: Tensor) -> LossFacts:
    try:
        measured = float(loss(output, targets))
        blind = float(loss(torch.zeros_like(output), targets))
    except Exception as error:  # a user's own function may raise anything
        raise UserError(
            f"the loss raised {one_line(error)} on an output {describe_tensor(output)}, expected a number: check "
            "it and "
            "the targets."
        ) from error
    return LossFacts("custom", measured, blind if blind > 0 else None)
