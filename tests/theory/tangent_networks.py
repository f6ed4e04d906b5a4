"""Real networks with two outputs: their tangent kernels and its differentials by automatic differentiation."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise, product

import torch
from torch import Tensor
from torch.func import jacrev, jvp, vmap

from leadline.theory.flow import Layers
from theory.trained_networks import Networks

PAIR = ((0, 1), (1, 0))


def draw(layers: Layers, count: int, generator: torch.Generator) -> Tensor:
    """Parameters of networks, one row each: weights and biases layer by layer."""
    parts = []
    for i, (n_in, n) in enumerate(pairwise(layers.widths)):
        for size, variance in ((n * n_in, layers.C_W[i] / n_in), (n, layers.C_b[i])):
            parts.append(torch.randn(count, size, generator=generator, dtype=torch.float64) * variance**0.5)
    return torch.cat(parts, dim=1)


def rates(layers: Layers) -> Tensor:
    """Learning rate of each parameter."""
    parts = []
    for i, (n_in, n) in enumerate(pairwise(layers.widths)):
        parts += [torch.full((n * n_in,), layers.lambda_W[i] / n_in), torch.full((n,), layers.lambda_b[i])]
    return torch.cat(parts).to(torch.float64)


def output(layers: Layers, parameters: Tensor, x: Tensor) -> Tensor:
    """Outputs at all inputs, shape (m, 2)."""
    h, start = x, 0
    for i, (n_in, n) in enumerate(pairwise(layers.widths)):
        W = parameters[start : start + n * n_in].reshape(n, n_in)
        start += n * n_in
        z = h @ W.T + parameters[start : start + n]
        start += n
        h = layers.activation.fn(z) if i + 2 < len(layers.widths) else z
    return h


def tensors(
    layers: Layers, x: Tensor, count: int, seed: int, *, second: bool = True, chunk: int = 100, step: float = 0.0
) -> dict[str, Tensor]:
    """Samples, one a network, whose means are A, B, D, F, P, Q, R, S, T, U times 1/n, (N, m, m, m, m); H is (N, m, m).

    With a ``step`` the curvature is a difference of gradients, which sees what they jump by at corners.
    """
    lam, m = rates(layers), x.shape[0]
    generator = torch.Generator().manual_seed(seed)
    triple, place = _triples(2 * m)

    def one(parameters: Tensor) -> tuple[Tensor, ...]:
        def jacobian(p: Tensor) -> Tensor:
            return jacrev(lambda q: output(layers, q, x).reshape(-1))(p)

        J = jacobian(parameters)
        v = lam * J
        z = output(layers, parameters, x)
        H = J @ v.T
        if step:
            ahead, behind = (vmap(lambda t, s=s: jacobian(parameters + s * t))(v) for s in (step, -step))
            u = (ahead - behind) / (2 * step)
        else:
            u = vmap(lambda t: jvp(jacobian, (parameters,), (t,))[1])(v)  # curvature of o along q at [q, o]
        dH = torch.einsum("px,qox->opq", v, u)
        if not second:
            return z, H, dH
        dd_II = torch.einsum("cax,dbx,x->abcd", u, u, lam)

        def along(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            def f(q: Tensor) -> Tensor:
                return output(layers, q, x).reshape(-1)

            def g(q: Tensor) -> Tensor:
                return jvp(f, (q,), (a,))[1]

            return jvp(lambda q: jvp(g, (q,), (b,))[1], (parameters,), (c,))[1]

        third = vmap(along)(v[triple[:, 0]], v[triple[:, 1]], v[triple[:, 2]])[place]
        return z, H, dH, third.permute(3, 0, 1, 2), dd_II

    found = [vmap(one)(draw(layers, min(chunk, count - i), generator)) for i in range(0, count, chunk)]
    z, H, dH, *more = (torch.cat(v) for v in zip(*found))
    axes = (m, 2)
    H, dH = H.reshape(-1, *axes * 2), dH.reshape(-1, *axes * 3)
    dd = [v.reshape(-1, *axes * 4) for v in more]
    return _symmetric(z, H, dH, dd)


def _triples(k: int) -> tuple[Tensor, Tensor]:
    """Every unordered triple of k directions, and where each ordered one is among them."""
    found = list(combinations_with_replacement(range(k), 3))
    number = {t: i for i, t in enumerate(found)}
    place = [number[tuple(sorted(t))] for t in product(range(k), repeat=3)]
    return torch.tensor(found), torch.tensor(place).reshape(k, k, k)


def _symmetric(z: Tensor, H: Tensor, dH: Tensor, dd: list[Tensor]) -> dict[str, Tensor]:
    """Averages over the exchange of the two outputs."""
    change = H - H.mean(0)
    out: dict[str, list[Tensor]] = {}

    def add(name: str, value: Tensor) -> None:
        out.setdefault(name, []).append(value)

    for i, j in PAIR:
        own, other, both = change[:, :, i, :, i], change[:, :, j, :, j], H[:, :, i, :, j]
        add("H", H[:, :, i, :, i])
        add("A", torch.einsum("nab,ncd->nabcd", own, other))
        add("B", torch.einsum("nac,nbd->nabcd", both, both))
        add("D", torch.einsum("na,nb,ncd->nabcd", z[:, :, i], z[:, :, i], other))
        add("F", torch.einsum("na,nc,nbd->nabcd", z[:, :, i], z[:, :, j], both))
        add("P", torch.einsum("nopq,nt->nopqt", dH[:, :, i, :, j, :, j], z[:, :, i]))
        add("Q", torch.einsum("nopq,nt->nopqt", dH[:, :, i, :, i, :, j], z[:, :, j]))
        if dd:
            add("R", dd[0][:, :, i, :, i, :, j, :, j])
            add("S", dd[1][:, :, i, :, i, :, j, :, j])
            add("T", dd[1][:, :, i, :, j, :, i, :, j])
            add("U", dd[1][:, :, i, :, j, :, j, :, i])
    return {name: torch.stack(v).mean(0) for name, v in out.items()}


def estimate(layers: Layers, x: Tensor, count: int, seed: int, **options: float) -> dict[str, tuple[Tensor, Tensor]]:
    """n times the mean of each tensor and its standard error; the mean tangent kernel under H."""
    n = layers.fan_in[-1]
    found = {}
    for name, v in tensors(layers, x, count, seed, **options).items():
        scale = 1 if name == "H" else n
        found[name] = (scale * v.mean(0), scale * v.std(0) / count**0.5)
    return found


def flow(networks: Networks, x: Tensor, Y: Tensor, times: list[float], step: float) -> Tensor:
    """Outputs of networks under gradient flow on the squared error at the first inputs, by RK4: (T, N, m), or
    (T, N, m, outputs) for targets (M, outputs)."""
    M, layers = len(Y), networks.layers
    scale = [(layers.lambda_W[i] / n, layers.lambda_b[i]) for i, n in enumerate(layers.widths[:-1])]

    def slope(state: list[Tensor]) -> list[Tensor]:
        set_state(state)
        found: list[Tensor] = [torch.empty(0)] * len(state)
        for i, gW, gb in networks.gradients(x[:M], lambda z: z - Y.T):
            found[2 * i], found[2 * i + 1] = -scale[i][0] * gW, -scale[i][1] * gb
        return found

    def set_state(state: list[Tensor]) -> None:
        networks.W, networks.b = state[0::2], state[1::2]

    def moved(state: list[Tensor], slopes: list[Tensor], h: float) -> list[Tensor]:
        return [s + h * k for s, k in zip(state, slopes)]

    state = [p for pair in zip(networks.W, networks.b) for p in pair]
    now, out = 0.0, []
    for time in times:
        while now < time - 1e-9:
            h = min(step, time - now)
            one = slope(state)
            two = slope(moved(state, one, h / 2))
            three = slope(moved(state, two, h / 2))
            four = slope(moved(state, three, h))
            mean = [(a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(one, two, three, four)]
            state, now = moved(state, mean, h), now + h
        set_state(state)
        z = networks.forward(x)[2]
        out.append(z[:, 0] if Y.ndim == 1 else z.mT)
    return torch.stack(out)


def kernel(networks: Networks, x: Tensor) -> Tensor:
    """Tangent kernels of networks, (N, outputs, m, outputs, m), from gradients written out."""
    layers = networks.layers
    h, hidden, z = networks.forward(x)
    N, k, m = z.shape
    # gradients of each output (second axis) with respect to the layer's pre-activations
    delta = torch.eye(k, dtype=z.dtype)[None, :, :, None].expand(N, -1, -1, m)
    total = torch.zeros(N, k, m, k, m, dtype=z.dtype)
    for i in reversed(range(layers.depth)):
        rate = layers.lambda_b[i] + layers.lambda_W[i] / layers.widths[i] * (h[i].mT @ h[i])
        total += rate[:, None, :, None] * torch.einsum("nouA,npuB->noApB", delta, delta)
        if i:
            delta = (networks.W[i].mT[:, None] @ delta) * layers.activation.derivative(hidden[i - 1])[:, None]
    return total


def linear_outputs(H: Tensor, Y: Tensor, times: list[float]) -> Tensor:
    """Outputs, from 0, of gradient flow under kernels that stay what they are: (T, N, m), or with outputs last."""
    N, k, m = H.shape[:3]
    y = Y.reshape(len(Y), k)
    M = len(y)
    rates, U = torch.linalg.eigh(H[:, :, :M, :, :M].reshape(N, k * M, k * M))
    across, modes = H[:, :, :, :, :M].reshape(N, k * m, k * M) @ U, U.mT @ y.T.reshape(-1)
    out = [torch.einsum("nbe,ne->nb", across, -torch.expm1(-rates * t) / rates * modes) for t in times]
    z = torch.stack(out).reshape(len(times), N, k, m)
    return z[:, :, 0] if Y.ndim == 1 else z.mT
