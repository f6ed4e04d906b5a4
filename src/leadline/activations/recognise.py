"""Reading an anonymous callable: is it pointwise, where are its kinks, is it a known activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from leadline.activations.base import Activation
from leadline.activations.moments import autodiff

__all__ = ["find_kinks", "in_float64", "match"]

Pointwise = Callable[[Tensor], Tensor]


def in_float64(fn: Pointwise) -> tuple[Pointwise, float]:
    """Check that fn acts pointwise and the same way twice, and find the precision it works in.

    Args:
        fn: callable from a tensor to a tensor.
    Returns:
        fn as it takes and returns float64, and its relative rounding (1e-16 or 1e-7).
    Raises:
        ValueError: fn changes the shape, mixes entries, has no finite value, or gives another answer the second time.
    """
    probe = torch.tensor([-2.3, -0.7, 0.2, 0.9, 3.1], dtype=torch.float64)
    with torch.no_grad():
        try:
            wide, precision = fn, 1e-16
            out = fn(probe)
        except (RuntimeError, TypeError):
            wide, precision = (lambda z: fn(z.to(torch.float32)).to(z.dtype)), 1e-7
            out = _attempt(fn, wide, probe)
        except (ValueError, IndexError) as error:
            raise ValueError(_not_pointwise(fn, error)) from error
        if isinstance(out, Tensor) and out.shape == probe.shape and out.dtype != torch.float64:
            precision = 1e-7
        ok = isinstance(out, Tensor) and out.shape == probe.shape
        alone = torch.cat([wide(v.reshape(1)).reshape(1) for v in probe]) if ok else out
        again = wide(probe) if ok else out
    if not ok or not torch.allclose(out, alone, rtol=1e-5, atol=1e-6, equal_nan=True):
        what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"an activation must act on each entry alone, got a callable that maps 5 entries to {what}; "
            "pass a pointwise function, or treat softmax-like operations with their own rule"
        )
    if not bool(torch.isfinite(out).all()):
        where = float(probe[~torch.isfinite(out)][0])
        raise ValueError(
            f"an activation must have a value at every number, got {_named(fn)}, which is not finite at {where:g}; "
            "pass one that is defined on the whole line"
        )
    if not torch.equal(out, again):
        raise ValueError(
            "an activation must give the same answer twice, got a random callable; "
            "call eval() on the module, or pass its deterministic part"
        )
    return wide, precision


def _attempt(fn: Pointwise, wide: Pointwise, probe: Tensor) -> Tensor:
    """The second and last try, on float32."""
    try:
        return wide(probe)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(_not_pointwise(fn, error)) from error


def _named(fn: Pointwise) -> str:
    return getattr(fn, "__name__", None) or type(fn).__name__


def _not_pointwise(fn: Pointwise, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"an activation must act on each entry alone, got {_named(fn)}, which fails on 5 numbers ({reason}); "
        "pass a pointwise function of one tensor"
    )


def match(fn: Pointwise, candidates: Iterable[Activation | None], precision: float) -> Activation | None:
    """The first candidate that equals fn on a grid to 1e-12 relative (to 1e-6 for float32-only callables).

    Args:
        fn: pointwise callable in float64.
        candidates: activations to compare with; None entries are skipped.
        precision: relative rounding of fn.
    Returns:
        The candidate, or None.
    """
    z = _grid()
    tolerance = 1e-12 if precision < 1e-10 else 1e-6
    with torch.no_grad():
        have = fn(z).to(torch.float64)
        if not bool(torch.isfinite(have).all()):
            return None
        for candidate in candidates:
            if candidate is None:
                continue
            for version in (candidate.fn, candidate.spelling):
                want = version(z) if version is not None else torch.full_like(z, torch.nan)
                # Near 0 the scale is |z|: chains such as 1 + tanh(z) lose no more than that to rounding.
                scale = want.abs().clamp_min(z.abs().clamp_max(1.0))
                if bool(((have - want).abs() <= tolerance * scale).all()):
                    return candidate
    return None


def _grid() -> Tensor:
    """Points up to |z| = 30 and down to 1e-3, none of them a round number."""
    line = torch.linspace(-30.0, 30.0, 1201, dtype=torch.float64) + 0.0123456789
    small = torch.logspace(-3, 0, 40, dtype=torch.float64) * 1.0123
    return torch.cat([line, small, -small])


def find_kinks(
    fn: Pointwise,
    reach: float = 24.0,
    precision: float = 1e-16,
    slope: Callable[[Sequence[float]], Pointwise] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Estimate where fn, its first or its second derivative jumps, by scanning |z| <= reach.

    A candidate is an interval over which the derivative bends far more than next to it; bisection narrows it
    and one-sided differences confirm it. Kinks closer together than 0.03, weaker than 1e-3 of the largest
    slope nearby, or beyond the reach, are missed: declare kinks where you know them.

    Args:
        fn: pointwise callable in float64.
        reach: half-width of the scan, units of z.
        precision: relative rounding of fn, below which nothing counts as a bend.
        slope: takes kinks and returns the derivative of fn that minds them; None: autodiff.
    Returns:
        (kinks, jumps): all points found, and those among them where fn itself jumps.
    """
    derivative = slope or (lambda _kinks: lambda x: autodiff(fn, x))
    z = torch.linspace(-reach, reach, int(200 * reach) + 1, dtype=torch.float64)
    with torch.no_grad():
        value, slopes = fn(z).to(torch.float64), derivative(())(z).to(torch.float64)
    found: list[float] = []
    for data, source in ((slopes, derivative(())), (value, fn)):
        found += _candidates(z, data.detach(), source, precision)
    kinks: list[float] = []
    jumps: list[float] = []
    for k in sorted(found):
        k = round(k, 6) if abs(k - round(k, 6)) < 2e-9 else k
        if any(abs(k - other) < 1e-6 for other in kinks):
            continue
        kind = _confirm(fn, derivative((k,)), k)
        if kind:
            kinks.append(k)
        if kind == "jump":
            jumps.append(k)
    return tuple(kinks), tuple(jumps)


def _candidates(z: Tensor, y: Tensor, source: Pointwise, precision: float) -> list[float]:
    """Centres of the intervals where the second difference of y stands out, narrowed by bisection."""
    bend = (y[2:] - 2 * y[1:-1] + y[:-2]).abs()
    typical = torch.nn.functional.pad(bend, (6, 6), mode="constant").unfold(0, 13, 1).median(dim=1).values
    scale = y.abs().max().clamp_min(1e-300)
    hit = (bend > 8 * typical + max(1e-9, 50 * precision) * scale).nonzero().reshape(-1) + 1
    out: list[float] = []
    for i in hit.tolist()[:200]:
        low, high = float(z[i - 1]), float(z[i + 1])
        while high - low > 1e-10 * max(1.0, abs(low)):
            x = torch.linspace(low, high, 5, dtype=torch.float64)
            with torch.no_grad():
                v = source(x).detach().to(torch.float64)
            b = (v[2:] - 2 * v[1:-1] + v[:-2]).abs()
            j = int(b.argmax())
            low, high = float(x[j]), float(x[j + 2])
        out.append((low + high) / 2)
    return out


def _confirm(fn: Pointwise, slope: Pointwise, k: float) -> str | None:
    """'jump' where fn jumps at k, 'kink' where a derivative does, None where it is smooth there."""
    h = 1e-4
    x = k + torch.tensor([-2 * h, -h, -1e-7, 1e-7, h, 2 * h], dtype=torch.float64)
    with torch.no_grad():
        v, d = fn(x).detach().to(torch.float64), slope(x).detach().to(torch.float64)
    near = d.abs().max() + v.abs().max() + 1e-12
    if float((v[3] - v[2]).abs()) > 1e-5 * float(near) + 1e-6 * float(d.abs().max()):
        return "jump"
    if float((d[3] - d[2]).abs()) > 1e-4 * float(near):
        return "kink"
    left, right = (d[1] - d[0]) / h, (d[5] - d[4]) / h
    return "kink" if float((left - right).abs()) > 1e-2 * float(near) else None
