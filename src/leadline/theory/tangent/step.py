"""One step of gradient descent at finite width: the mean change of the output to order 1/n."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.tangent.learned import MeanOutput, checked_targets
from leadline.theory.tangent.several import TangentTensors

__all__ = ["gradient_step"]


@checked()
def gradient_step(tensors: TangentTensors, targets: Tensor, rate: float) -> MeanOutput:
    r"""Mean output after one step of gradient descent on the squared error, at training and test inputs.

    With the loss :math:`\tfrac12\sum_a |z_a - y_a|^2` over the first M of the m inputs, and N = n_L outputs,

    .. math::
        E z_{i;b} &= \eta\Big(\Theta_{ba} + \frac{H_{1,ba}}n\Big) y_{i;a}
            - \frac{\eta^2}n (P_{baa'a'} + N Q_{baa'a'} + Q_{ba'aa'})\, y_{i;a} \\ &\quad
            + \frac{\eta^3}{2n} R_{baa'a''}\,[y_{i;a}(y_{a'}\cdot y_{a''} + N K_{a'a''}) + y_{i;a''}K_{aa'} +
            y_{i;a'}K_{aa''}]

    summed over repeated training indices; outputs at initialization have mean 0.

    Args:
        tensors: of the network at all inputs, the training inputs first.
        targets: y, shape (M,) or (M, n_L).
        rate: global learning rate eta; that of a parameter is eta times its lambda.

    Returns:
        Means of shape (m, n_L), or (m,) for targets of shape (M,).

    Raises:
        ValueError: the targets do not fit the inputs or the network's outputs, the rate is not positive, or the
            activation has kinks.

    Source: Roberts, Yaida and Hanin (2022), chapter 11 and the one on the end of training; for several outputs and
        inputs the same expansion in the step.

    >>> from leadline.theory.flow import Layers
    >>> from leadline.theory.tangent import tangent_tensors
    >>> one = tangent_tensors(Layers.of("tanh", widths=[4, 32, 32, 1]), torch.ones(1, 1))
    >>> out = gradient_step(one, torch.tensor([1.5]), rate=0.1)
    >>> bool(out.coefficient.abs() > 0)
    True
    """
    y = checked_targets(targets, tensors.K.shape[-1], tensors.layers.widths[-1])
    if not rate > 0:
        raise ValueError(f"got rate={rate}: a learning rate is positive.")
    if tensors.second is None:
        raise ValueError(
            f"{tensors.layers.activation.name} has a kink, and the units that a step carries across it move the mean output "
            "at a training input by order 1/sqrt(n), so that there is no coefficient of 1/n: use an activation without "
            "kinks, or draw networks."
        )
    M, outputs = y.shape
    s, t = tensors.last, slice(0, M)
    K = s.K[t, t]
    P, Q, R = (v[:, t, t, t] for v in (s.P, s.Q, s.R))
    pull = torch.einsum("bacc->ba", P + outputs * Q) + torch.einsum("bcac->ba", Q)
    cube = torch.einsum("bacd,cd->ba", R, y @ y.T + outputs * K) @ y
    cube = cube + torch.einsum("bacd,ac,di->bi", R, K, y) + torch.einsum("bacd,ad,ci->bi", R, K, y)
    parts = {
        "H1": rate * s.H1[:, t] @ y,
        "PQ": -(rate**2) * pull @ y,
        "RSTU": rate**3 / 2 * cube,
    }
    infinite = rate * s.Theta[:, t] @ y
    if targets.ndim == 1:
        infinite, parts = infinite[:, 0], {name: v[:, 0] for name, v in parts.items()}
    return MeanOutput(infinite, parts, tensors.fan_in)
