"""Covariances of products sigma_a sigma_b between pairs of inputs: what a layer adds to the four-point vertex."""

from __future__ import annotations

import torch
from torch import Tensor

from leadline.activations import Activation, four_point

__all__ = ["SKEW", "checked_gram", "input_pairs", "product_covariance"]

SKEW = 1e-6  # of the largest entry: what single precision leaves of the symmetry of x @ x.T


def checked_gram(gram: Tensor) -> None:
    """Refuse what is no Gram matrix of inputs.

    Args:
        gram: x_a · x_b / n_0, shape (m, m).

    Raises:
        ValueError: it is not square, not symmetric, or not finite.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"got a Gram matrix of shape {tuple(gram.shape)}: give x_a · x_b / n_0 of m inputs, (m, m).")
    if not bool(torch.isfinite(gram).all()) or bool(((gram - gram.T).abs() > SKEW * gram.abs().max()).any()):
        raise ValueError("got a Gram matrix that is not symmetric or not finite: give x @ x.T / n_0.")


def input_pairs(inputs: int, device: torch.device | None = None) -> Tensor:
    """The pairs (a, b), a <= b, of inputs, shape (2, P) with P = m(m + 1)/2.

    Args:
        inputs: m.
        device: of the result.

    Returns:
        Index tensor; the order is (0,0), (0,1), …, (0,m-1), (1,1), ….
    """
    return torch.triu_indices(inputs, inputs, device=device)


def product_covariance(
    activation: Activation, K: Tensor, gram: Tensor, *, rtol: float = 1e-4, seed: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Covariance of :math:`\sigma_a\sigma_b` and :math:`\sigma_c\sigma_d` at z ~ N(0, K), for all pairs of pairs.

    .. math:: \langle\sigma_a\sigma_b\sigma_c\sigma_d\rangle - \langle\sigma_a\sigma_b\rangle
        \langle\sigma_c\sigma_d\rangle

    Args:
        activation: sigma.
        K: covariance, shape (m, m), units of z squared; it may be singular.
        gram: <sigma_a sigma_b>, shape (m, m).
        rtol: wanted error where three or four inputs differ and no closed form is known, relative to the product of
            the :math:`\langle\sigma^4\rangle^{1/4}`.
        seed: of the sampling that the hardest cases need.

    Returns:
        Covariance and an estimate of its error, shape (P, P), float64, in the order of :func:`input_pairs`.
    """
    a, b = input_pairs(K.shape[0], K.device)
    means = four_point(activation, K.to(torch.float64), rtol=rtol, seed=seed)
    place = (a[:, None], b[:, None], a[None, :], b[None, :])
    products = gram[a, b]
    return means.value[place] - products[:, None] * products[None, :], means.error[place]
