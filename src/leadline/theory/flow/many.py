"""Several inputs: kernel, four-point vertex and first finite-width correction of every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leadline.activations import Activation
from leadline.gaussian.arguments import checked
from leadline.theory.flow.joint import checked_gram, input_pairs, product_covariance
from leadline.theory.flow.layers import Layers
from leadline.theory.flow.pairs import pair_derivatives
from leadline.theory.flow.replicas import Replicas

__all__ = ["ManyInputFlow", "four_index", "many_input_flow"]

_RANGE = (1e-30, 1e30)


@dataclass(frozen=True)
class ManyInputFlow:
    r"""Tensors of every layer for a set of m inputs.

    Given the layers before l the units of layer l are independent and N(0, G) over the inputs, with G random:

    .. math:: E\,G_{ab} = K_{ab} + G_{1,ab}/n, \qquad \mathrm{Cov}(G_{ab}, G_{cd}) = V_{(ab)(cd)}/n,
        \qquad n = n_{l-1}

    up to the next order in 1/n. Pairs P = (a, b), a <= b, are numbered as in :attr:`pairs`.

    Args:
        layers: what the flow was computed for.
        K: kernels at infinite width, shape (L, m, m), units of z squared.
        V: four-point vertex, shape (L, P, P).
        V_error: estimate of the error of V (rounding for one or two inputs), shape (L, P, P).
        G1: first correction to the kernel, shape (L, m, m).
    """

    layers: Layers
    K: Tensor
    V: Tensor
    V_error: Tensor
    G1: Tensor

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of inputs (a, b), a <= b."""
        a, b = (v.tolist() for v in input_pairs(self.K.shape[-1]))
        return list(zip(a, b))

    @property
    def vertex(self) -> Tensor:
        """V as a tensor with four input axes, shape (L, m, m, m, m)."""
        return four_index(self.V, self.K.shape[-1])

    @property
    def fan_in(self) -> Tensor:
        """n_{l-1} of each layer, shape (L,)."""
        return torch.tensor(self.layers.fan_in, dtype=self.K.dtype, device=self.K.device)

    @property
    def mean_kernel(self) -> Tensor:
        """K + G1/n, shape (L, m, m): mean of z_a z_b to first order in 1/n."""
        return self.K + self.G1 / self.fan_in[:, None, None]

    @property
    def spread(self) -> Tensor:
        """V/(n K^2) of each input, shape (L, m): variance of G over networks relative to its mean squared."""
        on = [i for i, (a, b) in enumerate(self.pairs) if a == b]
        variance = self.V.diagonal(dim1=-2, dim2=-1)[:, on]
        return variance / self.K.diagonal(dim1=-2, dim2=-1) ** 2 / self.fan_in[:, None]

    @property
    def excess_kurtosis(self) -> Tensor:
        """E z^4/(E z^2)^2 - 3 of each input to first order in 1/n, shape (L, m)."""
        return 3 * self.spread


@checked(negative=("inputs",))
def four_index(V: Tensor, inputs: int) -> Tensor:
    """A matrix over pairs of inputs as a tensor with four input axes.

    Args:
        V: shape (..., P, P), P = m(m + 1)/2.
        inputs: m.

    Returns:
        Shape (..., m, m, m, m), symmetric in the first two, in the last two, and under exchange of both.

    Raises:
        ValueError: V is not over the pairs of so many inputs.
    """
    pairs = inputs * (inputs + 1) // 2
    if tuple(V.shape[-2:]) != (pairs, pairs):
        raise ValueError(f"got V of shape {tuple(V.shape)} for {inputs} inputs: give (..., {pairs}, {pairs}).")
    a, b = input_pairs(inputs, V.device)
    index = torch.zeros(inputs, inputs, dtype=torch.long, device=V.device)
    index[a, b] = index[b, a] = torch.arange(a.numel(), device=V.device)
    flat = index.reshape(-1)
    return V[..., flat[:, None], flat[None, :]].reshape(*V.shape[:-2], *(inputs,) * 4)


@checked()
def many_input_flow(layers: Layers, gram: Tensor, *, rtol: float = 1e-4, seed: int = 0) -> ManyInputFlow:
    r"""Kernel K, four-point vertex V and kernel correction G1 of every layer, for several inputs at once.

    .. math::
        K'_{ab} = C_b + C_W\langle\sigma_a\sigma_b\rangle_K, \quad
        V' = C_W^2\,\mathrm{Cov}(\sigma_a\sigma_b, \sigma_c\sigma_d) + r\,J V J^T, \quad
        G'_{1,P} = r\,[(J G_1)_P + \tfrac12 \textstyle\sum_{QQ'} H_{P,QQ'} V_{QQ'}]

    with J and H the first and second derivatives of the map K -> C_W <sigma sigma> in the independent entries of K,
    delta functions at kinks included, and r = n_l/n_{l-1} (0 in the first step).

    Args:
        layers: widths, activation and variances.
        gram: x_a · x_b / n_0, shape (m, m).
        rtol: wanted error of what each layer adds to V where three or four inputs differ and no closed form is
            known, relative to the product of the <sigma^4>^{1/4}.
        seed: of the sampling that the hardest cases need.

    Returns:
        The tensors of every layer, dtype and device of ``gram``.

    Raises:
        ValueError: gram is not a covariance; the activation jumps; an input's kernel is 0 or leaves 1e-30 … 1e30; or
            two inputs are parallel in a way that leaves the correction of a kinked activation undefined.

    Source: Roberts, Yaida and Hanin (2022), chapter 4.

    >>> flow = many_input_flow(Layers.of("relu", depth=3, C_W=2.0), torch.eye(2, dtype=torch.float64))
    >>> round(flow.V[-1, 0, 0].item(), 9)
    40.0
    """
    checked_gram(gram)
    act = layers.activation
    first = layers.first_kernel(gram.detach().to(torch.float64))
    replicas = Replicas.of(first, scalable=act.slopes is not None and not any(layers.C_b))
    K = replicas.reduce(first)
    m = K.shape[0]
    a, b = input_pairs(m, K.device)
    count = a.numel()
    V, E = (torch.zeros(count, count, dtype=torch.float64, device=K.device) for _ in range(2))
    G1 = torch.zeros_like(K)
    out = [(K, V, E, G1)]
    for C_b, C_W, r in zip(layers.C_b[1:], layers.C_W[1:], layers.ratios):
        _check(K, len(out))
        products = act.gram(K)
        covariance, error = product_covariance(act, K, products, rtol=rtol, seed=seed + len(out))
        new_V, new_E, new_G1 = C_W**2 * covariance, C_W**2 * error, torch.zeros_like(K)
        if r:
            J, H = _derivatives(act, K, V)
            V, E = r * C_W**2 * J @ V @ J.T, r * C_W**2 * J.abs() @ E @ J.abs().T
            change = r * C_W * (J @ G1[a, b] + H)
            new_V, new_E = new_V + V, (new_E**2 + E**2).sqrt()
            new_G1[a, b] = new_G1[b, a] = change
        K, V, E, G1 = C_b + C_W * products, (new_V + new_V.T) / 2, new_E, new_G1
        if not bool(torch.isfinite(G1).all()):
            raise ValueError(
                f"G1 of {act.name} is not defined where two inputs are parallel or antiparallel and its slope jumps: "
                "leave out one of them."
            )
        out.append((K, V, E, G1))
    full = replicas.expand(*(torch.stack(t) for t in zip(*out)))
    return ManyInputFlow(layers, *(t.to(gram) for t in full))


def _check(K: Tensor, layer: int) -> None:
    variances = K.diagonal()
    if not bool(((variances > _RANGE[0]) & (variances < _RANGE[1])).all()):
        worst = variances[variances.log().abs().argmax()]
        raise ValueError(
            f"the kernel of an input is {float(worst):.3g} at layer {layer}: it explodes or vanishes; "
            "take fewer layers, a C_W closer to criticality, or `single_input_flow`, which carries the scale."
        )


def _derivatives(activation: Activation, K: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """J over pairs, and half the second derivatives contracted with V, both without C_W."""
    m = K.shape[0]
    a, b = input_pairs(m, K.device)
    count = a.numel()
    J, H = torch.zeros_like(V), torch.zeros(count, dtype=torch.float64, device=K.device)
    diagonal = (a == b).nonzero()[:, 0]
    variances = K.diagonal()
    J[diagonal, diagonal] = activation.second_moment_slope(variances)
    H[diagonal] = activation.second_moment_curvature(variances) * V[diagonal, diagonal] / 2
    off = (a != b).nonzero()[:, 0]
    if not off.numel():
        return J, H
    i, j = a[off], b[off]
    aa, bb = diagonal[i], diagonal[j]
    d = pair_derivatives(activation, K[i, i], K[i, j], K[j, j])
    J[off, off], J[off, aa], J[off, bb] = d[1, 1], d[2, 0] / 2, d[0, 2] / 2
    H[off] = (
        d[2, 2] * V[off, off]
        + d[3, 1] * V[off, aa]
        + d[1, 3] * V[off, bb]
        + d[4, 0] / 4 * V[aa, aa]
        + d[0, 4] / 4 * V[bb, bb]
        + d[2, 2] / 2 * V[aa, bb]
    ) / 2
    return J, H
