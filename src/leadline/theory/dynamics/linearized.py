"""Training of a wide network in closed form: mean and covariance over initializations at any time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.gaussian.arguments import checked
from leadline.theory.bayes.posterior import targets
from leadline.theory.dynamics.rules import GradientFlow, Rule

__all__ = ["TrainedEnsemble", "linearized_training"]


@dataclass(frozen=True)
class TrainedEnsemble:
    """The Gaussian law of a trained wide network's outputs at m inputs, the first M of which it was trained on.

    ``times`` (T,); ``mean`` (T, m, outputs) and ``covariance`` (T, m, m), the same for every output, over
    initializations; ``response`` (T, m, M): what a change of a target adds to the output.
    """

    times: tuple[float, ...]
    mean: Tensor
    covariance: Tensor
    response: Tensor


@checked(infinite=("times",))
def linearized_training(
    K: Tensor,
    Theta: Tensor,
    Y: Tensor,
    times: Sequence[float] = (math.inf,),
    rule: Rule | None = None,
    *,
    preconditioner: Tensor | None = None,
) -> TrainedEnsemble:
    r"""Outputs of an infinitely wide network after training on the squared error, over initializations.

    Training moves the output linearly in the errors: :math:`z_t = z_0 + B_t (Y - z_0(X))`, hence

    .. math:: \mu_t = B_t Y, \quad \Sigma_t = A_t K A_t^T, \quad A_t = 1 - B_t P_X, \quad
        B_t = \Theta_{\cdot X}\, \Theta_{XX}^{-1} (1 - p_t(\Theta_{XX}))

    with p_t the rule's. At the end of training every rule has p = 0: the same answer for all of them, as long
    as they share :math:`\Theta`.

    Args:
        K: kernel at initialization over m inputs, data first, shape (m, m), units of z squared.
        Theta: mean tangent kernel, learning-rate tensor included, shape (m, m), units of z squared.
        Y: targets at the first M inputs, shape (M,) or (M, outputs), units of z.
        times: when to look; inf is the end of training.
        rule: gradient flow at rate 1 if None. The loss is one half of the squared error summed over data: for
            a mean over data divide the rate by M.
        preconditioner: positive definite matrix over data, shape (M, M), that multiplies the errors before they
            are propagated back; none if None.

    Returns:
        Mean, covariance and response at each time, at all m inputs.

    Raises:
        ValueError: shapes do not fit, a number is not finite, a time is negative, the preconditioner is not positive
            definite, or the end of training is asked of a rule that diverges.

    Source: Jacot et al. (2018); Lee et al. (2019), section 2.2; Roberts, Yaida and Hanin (2022), chapter 10.

    >>> one = torch.tensor([[1.0]])
    >>> linearized_training(one, one, torch.tensor([1.0]), [math.log(2.0)]).covariance.item()
    0.25
    """
    y = targets(Theta, Y)
    if K.shape != Theta.shape or K.ndim != 2:
        shapes = f"{tuple(K.shape)} and {tuple(Theta.shape)}"
        raise ValueError(f"got kernels K and Theta of shapes {shapes}: give both over the same m inputs, (m, m).")
    if not bool(torch.isfinite(K).all()) or not bool(torch.isfinite(Theta).all()):
        raise ValueError("got kernels with entries that are NaN or infinite: give finite ones.")
    if not len(times) or not all(time >= 0 for time in times):
        raise ValueError(f"got times {tuple(times)[:6]}: training starts at 0, look then or later.")
    m, M = K.shape[0], y.shape[0]
    rule = rule or GradientFlow()
    root = _root(preconditioner, M, Theta)
    modes, vectors = torch.linalg.eigh(root @ Theta[:M, :M] @ root)
    alive = modes > 4 * M * torch.finfo(K.dtype).eps * modes[-1]
    modes = torch.where(alive, modes, torch.ones_like(modes))
    if math.inf in times and not rule.stable(float(modes[alive].max()) if bool(alive.any()) else 0.0):
        raise ValueError(
            f"got {rule}, which diverges on modes up to {float(modes[alive].max()):.3g}: training has no end, lower the rate."
        )
    rows = Theta[:, :M] @ root @ vectors
    back = (root @ vectors).mT
    responses = []
    for time in times:
        left = torch.zeros_like(modes) if time == math.inf else rule.left(modes, time)
        # directions that the features of the data do not have are not seen by training
        share = torch.where(alive, (1 - left) / modes, 0.0)
        responses.append((rows * share) @ back)
    response = torch.stack(responses)
    A = torch.eye(m, dtype=K.dtype, device=K.device).repeat(len(responses), 1, 1)
    A[:, :, :M] -= response
    return TrainedEnsemble(tuple(float(t) for t in times), response @ y, A @ K @ A.mT, response)


def _root(preconditioner: Tensor | None, M: int, like: Tensor) -> Tensor:
    """Symmetric root of the preconditioner, the identity without one."""
    if preconditioner is None:
        return torch.eye(M, dtype=like.dtype, device=like.device)
    P = preconditioner.to(like)
    if tuple(P.shape) != (M, M) or not torch.allclose(P, P.mT):
        raise ValueError(f"got a preconditioner of shape {tuple(P.shape)}: give a symmetric one of shape {(M, M)}.")
    values, vectors = torch.linalg.eigh(P)
    if not float(values[0]) > 0:
        raise ValueError(f"got a preconditioner with eigenvalue {float(values[0]):.3g}: give a positive definite one.")
    return (vectors * values.sqrt()) @ vectors.mT
