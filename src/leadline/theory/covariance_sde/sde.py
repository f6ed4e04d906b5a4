"""The stochastic differential equation of the covariance, and paths drawn from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leadline.activations.shape import Shaped
from leadline.gaussian import correlation
from leadline.gaussian.arguments import checked
from leadline.theory.covariance_sde.drift import relu_drift, smooth_drift

__all__ = ["CovariancePaths", "CovarianceSDE", "covariance_sde", "covariance_sde_relu", "log_variance_law"]

_EXPLODED = 1e8


@dataclass(frozen=True)
class CovariancePaths:
    """Covariances drawn from the SDE.

    ``times``: depth/width, shape (t,). ``V``: shape (paths, t, m, m); a path that has exploded is infinite.
    """

    times: Tensor
    V: Tensor = field(repr=False)

    def correlation(self, a: int = 0, b: int = 1) -> Tensor:
        """Correlation of two inputs, shape (paths, t); NaN where the path has exploded."""
        one, both, two = self.V[..., a, a], self.V[..., a, b], self.V[..., b, b]
        alive = torch.isfinite(one) & torch.isfinite(two) & torch.isfinite(both)
        value = correlation(*(torch.where(alive, t, torch.ones_like(t)) for t in (one, both, two)))
        return torch.where(alive, value, torch.nan)

    @property
    def exploded(self) -> Tensor:
        """Share of paths that have exploded by each time, shape (t,)."""
        return (~torch.isfinite(self.V.diagonal(dim1=-2, dim2=-1)).all(-1)).to(self.V.dtype).mean(0)


@dataclass(frozen=True)
class CovarianceSDE:
    r"""Law of the covariance V over inputs in a shaped network, T = depth/width, in the limit of both large.

    .. math:: dV = b(V)\,dT + \Sigma(V)^{1/2}dB,\qquad \Sigma_{ab,cd} = V_{ac}V_{bd} + V_{ad}V_{bc}

    V is the mean over channels of c s(z) s(z)^T with c = 1/<s^2>_1, the weights' C_W: the kernel of the next layer.

    Args:
        drift: b, from covariances (..., m, m) to their change per unit of T.
        can_explode: whether a variance becomes infinite in finite T with positive probability.
        name: of the activation, for pictures.
    Source: Li, Nica & Roy, The Neural Covariance SDE (2022).
    """

    drift: Callable[[Tensor], Tensor] = field(repr=False)
    can_explode: bool
    name: str = ""

    def sample(
        self, V0: Tensor, times: Sequence[float], *, paths: int, seed: int, steps_per_unit: int = 400
    ) -> CovariancePaths:
        r"""Draw paths by a scheme of first weak order that keeps every covariance positive.

        .. math:: V \leftarrow \frac{L(1 + \tfrac12 S\sqrt{dT})^2L^T}{1 + (m+1)dT/4},\quad LL^T = V,
                  \quad\text{then}\quad V \leftarrow V + \frac{b\,dT}{1 + dT\max_a|b_{aa}|/V_{aa}}

        with S symmetric Gaussian, variance 2 on the diagonal and 1 off it. Its mean step is exact.

        Args:
            V0: covariance of the first layer, shape (m, m), units of z squared.
            times: depth/width at which to keep V, ascending.
            paths: number of paths.
            seed: of the draws.
            steps_per_unit: steps per unit of depth/width, at least.
        Returns:
            The paths, in V0's dtype and on its device.
        Raises:
            ValueError: V0 is no covariance, the times are not ascending, or a number is not positive.
        """
        _check(V0, times, paths, steps_per_unit)
        generator = torch.Generator(device=V0.device).manual_seed(seed)
        m = V0.shape[0]
        V = V0.expand(paths, m, m).clone()
        alive = torch.ones(paths, dtype=torch.bool, device=V0.device)
        kept, now = [], 0.0
        for time in times:
            count = max(1, math.ceil((time - now) * steps_per_unit)) if time > now else 0
            for _ in range(count):
                V = self._step(V, (time - now) / count, generator)
                alive &= ~(V.diagonal(dim1=-2, dim2=-1) > _EXPLODED).any(-1)
                # an exploded path waits where the arithmetic is safe
                V = torch.where(alive[:, None, None], V, V0)
            kept.append(torch.where(alive[:, None, None], V, torch.inf))
            now = time
        return CovariancePaths(torch.tensor(list(times), dtype=V0.dtype, device=V0.device), torch.stack(kept, 1))

    def _step(self, V: Tensor, dt: float, generator: torch.Generator) -> Tensor:
        m = V.shape[-1]
        noise = torch.randn(V.shape, generator=generator, dtype=V.dtype, device=V.device)
        S = (noise + noise.mT) / math.sqrt(2)
        half = torch.eye(m, dtype=V.dtype, device=V.device) + 0.5 * math.sqrt(dt) * S
        root = _factor(V) @ half
        V = root @ root.mT / (1 + (m + 1) * dt / 4)
        b = self.drift(V)
        diagonal = V.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300)
        rate = (b.diagonal(dim1=-2, dim2=-1).abs() / diagonal).amax(-1)
        return V + dt * b / (1 + dt * rate)[:, None, None]

    def without_noise(self, V0: Tensor, times: Sequence[float], *, steps_per_unit: int = 400) -> Tensor:
        """The drift alone: what infinite width at a fixed depth/width ratio of the *shape* would say, a point.

        Args:
            V0: covariance of the first layer, shape (m, m), units of z squared.
            times: depth/width at which to keep V, ascending.
            steps_per_unit: Runge-Kutta steps per unit of depth/width, at least.
        Returns:
            Shape (t, m, m).
        Raises:
            ValueError: V0 is no covariance, or the times are not ascending.
        """
        _check(V0, times, 1, steps_per_unit)
        V, now, kept = V0, 0.0, []
        for time in times:
            count = max(1, math.ceil((time - now) * steps_per_unit))
            dt = (time - now) / count
            for _ in range(count):
                k1 = self.drift(V)
                k2 = self.drift(V + dt / 2 * k1)
                k3 = self.drift(V + dt / 2 * k2)
                V = V + dt / 6 * (k1 + 2 * k2 + 2 * k3 + self.drift(V + dt * k3))
            kept.append(V)
            now = time
        return torch.stack(kept)


def covariance_sde(shaped: Shaped) -> CovarianceSDE:
    r"""The SDE of a smooth activation shaped with the width.

    Args:
        shaped: from :func:`leadline.activations.shape`; its width does not enter, T = depth/width does.
    Returns:
        The SDE. It explodes with positive probability iff :math:`\tfrac34 f''(0)^2 + f'''(0) > 0`.
    Raises:
        ValueError: the activation is not shaped.
    Source: Li, Nica & Roy (2022), theorem 3.9 and proposition 3.10.

    >>> from leadline.activations.shape import shape
    >>> covariance_sde(shape("tanh", 100)).can_explode, covariance_sde(shape("softplus", 100)).can_explode
    (False, True)
    """
    if not isinstance(shaped, Shaped):
        raise ValueError(f"got {shaped!r}, which is not shaped: give leadline.activations.shape(activation, width).")
    second, third = shaped.origin_derivatives
    # what is left of a zero by numerical derivatives must not decide
    explodes = 0.75 * second**2 + third > 1e-6 * (second**2 + abs(third))
    return CovarianceSDE(lambda V: smooth_drift(V, second, third, shaped.a), explodes, shaped.name)


@checked()
def covariance_sde_relu(c_plus: float = 0.0, c_minus: float = -1.0) -> CovarianceSDE:
    """The SDE of a shaped ReLU with slopes 1 + c/sqrt(n) on the two sides.

    Args:
        c_plus: bend of the right half.
        c_minus: bend of the left half.
    Returns:
        The SDE; it never explodes.
    Source: Li, Nica & Roy (2022), theorem 3.2.
    """
    return CovarianceSDE(lambda V: relu_drift(V, c_plus, c_minus), False, f"shaped relu({c_plus:g},{c_minus:g})")


@checked(negative=("T",))
def log_variance_law(
    T: Tensor | float, *, width: int | None = None, c_plus: float = 0.0, c_minus: float = 0.0
) -> tuple[Tensor, Tensor]:
    r"""Mean and variance of the logarithm of one input's variance in a shaped ReLU network, in units of the first's.

    .. math:: \ln V_{aa}(T)/V_{aa}(0) \sim N(-\tfrac12\nu T,\ \nu T),\qquad \nu = 3A_4/A_2^2 - 1 \to 2

    Args:
        T: depth/width, any shape.
        width: n; with it nu is that of the shaped slopes, A_p the mean of their p-th powers; without, its limit 2.
        c_plus: bend of the right half; needs the width.
        c_minus: bend of the left half; needs the width.
    Returns:
        (mean, variance), each of the shape of T.
    Raises:
        ValueError: width is not positive, or bends are given without a width.
    Source: Li, Nica & Roy (2022), theorem 3.2; at finite width by the central limit of the layers' product.
    """
    if width is None and (c_plus or c_minus):
        raise ValueError("c_plus and c_minus matter at finite width only; pass width too, or neither")
    nu = 2.0
    if width is not None:
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}; pass the number of hidden units of a layer")
        plus, minus = 1 + c_plus / math.sqrt(width), 1 + c_minus / math.sqrt(width)
        nu = 6 * (plus**4 + minus**4) / (plus**2 + minus**2) ** 2 - 1
    t = torch.as_tensor(T, dtype=None if isinstance(T, Tensor) else torch.float64)
    return -0.5 * nu * t, nu * t


def _factor(V: Tensor) -> Tensor:
    """A square root of each covariance; eigenvalues pushed below zero by rounding or a drift step count as zero."""
    L, info = torch.linalg.cholesky_ex(V)
    bad = info > 0
    if bool(bad.any()):
        values, vectors = torch.linalg.eigh(V[bad])
        L[bad] = vectors * values.clamp_min(0).sqrt()[..., None, :]
    return L


def _check(V0: Tensor, times: Sequence[float], paths: int, steps: int) -> None:
    if V0.ndim != 2 or V0.shape[0] != V0.shape[1] or not torch.allclose(V0, V0.mT):
        raise ValueError(f"V0 must be a symmetric matrix over inputs, got shape {tuple(V0.shape)}; pass (m, m)")
    if float(torch.linalg.eigvalsh(V0).min()) < -1e-9 * float(V0.abs().max()) or bool((V0.diagonal() <= 0).any()):
        raise ValueError("V0 must be a covariance with positive variances; pass the kernel of the first layer")
    if not times or min(times) < 0 or any(b <= a for a, b in zip(list(times)[:-1], list(times)[1:], strict=True)):
        raise ValueError(f"times must be ascending and not negative, got {list(times)}; pass values of depth/width")
    if paths < 1 or steps < 1:
        raise ValueError(f"got paths={paths}, steps_per_unit={steps}; take 1 or more of each")
