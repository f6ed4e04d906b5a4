"""Deep linear networks at any width and to any order: moments of products of Gaussian matrices, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

__all__ = [
    "joint_cumulant", "linear_correlator", "linear_kernel_moment", "linear_moment", "linear_vertex", "pairing_weights",
]  # fmt: skip

_MOST = 10

Pairing = tuple[tuple[int, int], ...]


def linear_kernel_moment(widths: Sequence[int], order: int) -> float:
    r"""Moment of the random kernel of one input of a bias-free linear network over its mean to the same power.

    .. math:: \frac{E\,G^m}{(E\,G)^m} = \prod_l \prod_{k=0}^{m-1}\Big(1 + \frac{2k}{n_l}\Big), \qquad
        E\,z^{2m} = (2m - 1)!!\; E\,G^m

    Args:
        widths: n_1, n_2, … of the hidden layers between the input and G.
        order: m.

    Returns:
        The ratio.

    Raises:
        ValueError: the order is negative, or a width is below 1.

    Source: Roberts, Yaida and Hanin (2022), section 3.4.

    >>> linear_kernel_moment([2, 4], 2)
    3.0
    """
    if order < 0:
        raise ValueError(f"got order={order}: give a moment of order 0 or more.")
    if any(n < 1 for n in widths):
        raise ValueError(f"got widths {tuple(widths)[:6]}: a hidden layer has at least 1 neuron.")
    return math.prod(1 + 2 * k / n for n in widths for k in range(order))


def pairing_weights(
    gram: Tensor,
    inputs: Sequence[int],
    widths: Sequence[int],
    C_W: Sequence[float] | float = 1.0,
    C_b: Sequence[float] | float = 0.0,
) -> dict[Pairing, Tensor]:
    r"""Weight of every pairing in the moment of 2m pre-activations of the last layer, exactly.

    .. math:: E[z_{i_1;a_1}\cdots z_{i_{2m};a_{2m}}] = \sum_\pi c_\pi \prod_{(p,q)\in\pi}\delta_{i_p i_q}, \qquad
        c'_\pi = \sum_{T\subseteq\pi} C_b^{|\pi\setminus T|} C_W^{|T|} \sum_\tau n^{\mathrm{loops}(T,\tau) - |T|}\, c_\tau

    with :math:`c_\pi = \prod_{(p,q)\in\pi} K_{a_pa_q}` at the first layer; tau runs over the pairings of T's points.

    Args:
        gram: x_a · x_b / n_0, shape (m, m).
        inputs: a_1 … a_2m, at most 10 of them.
        widths: n_0, n_1, …, n_L; the first and the last have no effect.
        C_W: fan-in times the weight variance, one number or one a layer.
        C_b: bias variance, one number or one a layer.

    Returns:
        The weight of each pairing of the places 0 … 2m - 1, dtype of ``gram``.

    Raises:
        ValueError: there are too many points, or the numbers of layers do not fit together.

    Source: Roberts, Yaida and Hanin (2022), chapter 3, for equal inputs; the general case is Wick's theorem layer by layer.
    """
    depth, count = len(widths) - 1, len(inputs)
    if count % 2 or not 2 <= count <= _MOST:
        raise ValueError(f"got {count} points: give an even number of them from 2 to {_MOST}.")
    weights, biases = _each(C_W, depth, "C_W"), _each(C_b, depth, "C_b")
    K = biases[0] + weights[0] * gram
    any_bias = any(biases[1:])
    sizes = range(0, count + 1, 2) if any_bias else (count,)
    subsets = [s for size in sizes for s in combinations(range(count), size)]
    now: dict[Pairing, Tensor] = {}
    for points in subsets:
        for pairing in pairings(points):
            now[pairing] = (
                torch.stack([K[inputs[p], inputs[q]] for p, q in pairing]).prod() if pairing else K.new_ones(())
            )
    for w, b, n in zip(weights[1:], biases[1:], widths[1:-1]):
        now = {pairing: _step(pairing, now, w, b, n) for pairing in now}
    return {pairing: now[pairing] for pairing in pairings(tuple(range(count)))}


def _step(pairing: Pairing, now: dict[Pairing, Tensor], w: float, b: float, n: int) -> Tensor:
    """Weight of one pairing at the next layer."""
    total = next(iter(now.values())).new_zeros(())
    for size in range(len(pairing) + 1) if b else (len(pairing),):
        for kept in combinations(pairing, size):
            points = tuple(sorted(p for pair in kept for p in pair))
            factor = b ** (len(pairing) - size) * w**size
            for tau in pairings(points):
                total = total + factor * float(n) ** (_loops(kept, tau) - size) * now[tau]
    return total


@lru_cache(maxsize=4096)
def pairings(points: tuple[int, ...]) -> tuple[Pairing, ...]:
    """All ways to pair the points.

    Args:
        points: an even number of them.

    Returns:
        (2m - 1)!! pairings, each a tuple of pairs.
    """
    if not points:
        return ((),)
    first, rest = points[0], points[1:]
    return tuple(
        ((first, other), *pairing) for i, other in enumerate(rest) for pairing in pairings(rest[:i] + rest[i + 1 :])
    )


@lru_cache(maxsize=2**20)
def _loops(one: Pairing, two: Pairing) -> int:
    """Number of closed loops that two pairings of the same points make together."""
    follow = [{p: q for pair in pairing for p, q in (pair, pair[::-1])} for pairing in (one, two)]
    left, loops = set(follow[0]), 0
    while left:
        point = start = left.pop()
        while True:
            point = follow[0][point]
            left.discard(point)
            point = follow[1][point]
            left.discard(point)
            if point == start:
                break
        loops += 1
    return loops


def linear_moment(
    gram: Tensor,
    inputs: Sequence[int],
    neurons: Sequence[int],
    widths: Sequence[int],
    C_W: Sequence[float] | float = 1.0,
    C_b: Sequence[float] | float = 0.0,
) -> Tensor:
    r"""Mean of the product of any pre-activations of the last layer of a linear network, exactly.

    .. math:: E[z_{i_1;a_1}\cdots z_{i_{2m};a_{2m}}]

    Args:
        gram: x_a · x_b / n_0, shape (m, m).
        inputs: a_1 … a_2m, at most 10 of them.
        neurons: i_1 … i_2m.
        widths: n_0, n_1, …, n_L.
        C_W: fan-in times the weight variance, one number or one a layer.
        C_b: bias variance, one number or one a layer.

    Returns:
        A number, dtype of ``gram``; 0 for an odd number of points.

    Raises:
        ValueError: there are too many points, or as many neurons as inputs are not given.

    Source: Roberts, Yaida and Hanin (2022), chapter 3.

    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> linear_moment(one, [0] * 4, [0] * 4, [3, 2, 4, 1]).item()
    9.0
    """
    if len(neurons) != len(inputs):
        raise ValueError(f"got {len(inputs)} inputs and {len(neurons)} neurons: give one neuron for each.")
    if len(inputs) % 2:
        return gram.new_zeros(())
    weights = pairing_weights(gram, inputs, widths, C_W, C_b)
    total = gram.new_zeros(())
    for pairing, weight in weights.items():
        if all(neurons[p] == neurons[q] for p, q in pairing):
            total = total + weight
    return total


def linear_correlator(
    gram: Tensor,
    inputs: Sequence[int],
    neurons: Sequence[int],
    widths: Sequence[int],
    C_W: Sequence[float] | float = 1.0,
    C_b: Sequence[float] | float = 0.0,
) -> Tensor:
    """Connected correlator of pre-activations of the last layer of a linear network, exactly; arguments as above.

    Args:
        gram: x_a · x_b / n_0, shape (m, m).
        inputs: a_1 … a_2m, at most 10 of them.
        neurons: i_1 … i_2m.
        widths: n_0, n_1, …, n_L.
        C_W: fan-in times the weight variance, one number or one a layer.
        C_b: bias variance, one number or one a layer.

    Returns:
        A number, dtype of ``gram``.
    """

    def moment(places: tuple[int, ...]) -> Tensor:
        return linear_moment(gram, [inputs[p] for p in places], [neurons[p] for p in places], widths, C_W, C_b)

    return joint_cumulant(moment, len(inputs))


def joint_cumulant(moment: Callable[[tuple[int, ...]], Tensor], count: int) -> Tensor:
    r"""Joint cumulant of variables 0 … count - 1 from their moments; odd moments must vanish.

    .. math:: \kappa(1 \ldots k) = \sum_{\text{partitions}} (-1)^{b-1}(b-1)! \prod_{\text{blocks}} E[\ldots]

    Args:
        moment: mean of the product of the variables of given places, an even number of them.
        count: number of variables.

    Returns:
        The cumulant.
    """
    known: dict[tuple[int, ...], Tensor] = {}
    total: Tensor | None = None
    for blocks in _even_partitions(tuple(range(count))):
        value = torch.tensor(float((-1) ** (len(blocks) - 1) * math.factorial(len(blocks) - 1)), dtype=torch.float64)
        for block in blocks:
            if block not in known:
                known[block] = moment(block)
            value = value * known[block]
        total = value if total is None else total + value
    return total if total is not None else torch.zeros((), dtype=torch.float64)


def _even_partitions(points: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Partitions of the points into blocks of even size."""
    if not points:
        yield ()
        return
    first, rest = points[0], points[1:]
    for size in range(1, len(rest) + 1, 2):
        for others in combinations(rest, size):
            left = tuple(p for p in rest if p not in others)
            for more in _even_partitions(left):
                yield ((first, *others), *more)


def linear_vertex(gram: Tensor, widths: Sequence[int], C_W: Sequence[float] | float = 1.0) -> Tensor:
    r"""Exact four-point vertex V = n Cov(G_ab, G_cd) of the last layer of a bias-free linear network.

    Args:
        gram: x_a · x_b / n_0, shape (m, m).
        widths: n_0, n_1, …, n_L; n = n_{L-1}.
        C_W: fan-in times the weight variance, one number or one a layer.

    Returns:
        Shape (m, m, m, m), dtype of ``gram``.

    Raises:
        ValueError: the numbers of layers do not fit together.

    Source: Roberts, Yaida and Hanin (2022), section 3.3, for one input.
    """
    K = _each(C_W, len(widths) - 1, "C_W")[0] * gram
    apart, crossed = torch.einsum("ab,cd->abcd", K, K), torch.einsum("ac,bd->abcd", K, K)
    swapped = torch.einsum("ad,bc->abcd", K, K)
    disconnected = apart
    for w, n in zip(_each(C_W, len(widths) - 1, "C_W")[1:], widths[1:-1]):
        # the three pairings of four points: those that agree close two loops, those that do not one
        total = apart + crossed + swapped
        apart, crossed, swapped = (w**2 * (t + (total - t) / n) for t in (apart, crossed, swapped))
        disconnected = w**2 * disconnected
    return widths[-2] * (apart - disconnected)


def _each(value: Sequence[float] | float, depth: int, name: str) -> list[float]:
    if not isinstance(value, Sequence):
        return [float(value)] * depth
    if len(value) != depth:
        raise ValueError(f"got {len(value)} values of {name} for {depth} layers: give one a layer.")
    return [float(v) for v in value]
