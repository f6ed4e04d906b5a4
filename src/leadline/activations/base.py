"""The activation: a pointwise function with its derivative, its kinks and its Gaussian moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leadline.activations import moments
from leadline.activations.pair import Pair
from leadline.activations.taylor import one_sided_derivatives
from leadline.gaussian import Expectation, HalfSpaceTerm, hermite_coefficients, mean_product, mean_product_gram

__all__ = ["Activation"]

_ROUNDING = 1e-14


class Activation:
    r"""A pointwise function :math:`\sigma` and what the theory needs of it under centred Gaussians.

    Every moment broadcasts over tensors of variances; shape, dtype and device follow the input, the work is
    done in float64. The default of every method is quadrature to 1e-10; a subclass overrides the hooks (names
    with a leading underscore, float64 in and out) for which it knows a closed form.

    Args:
        fn: pointwise function of a tensor.
        name: how reports call it.
        kinks: points where fn or one of its first two derivatives jumps, units of z.
        jumps: the kinks where fn itself jumps.
        derivative: closed form of the first derivative; forward-mode autodiff if None.
        precision: relative rounding of fn (1e-16 for float64, 1e-7 for a function that only takes float32).
        spelling: torch's own version of fn where it differs beyond rounding; only used to recognise a
            callable.

    >>> import torch
    >>> act = Activation(torch.tanh, name="tanh")
    >>> round(act.second_moment(torch.tensor(1.0, dtype=torch.float64)).item(), 8)
    0.39429449
    """

    closed_second_moment = False
    """Whether ``_second_moment`` is a closed form that autodiff can differentiate in K."""

    half_space_terms: tuple[HalfSpaceTerm, ...] | None = None
    """The function as a sum of monomials with and without steps at 0, where it is one."""

    exponential_terms: tuple[tuple[complex, complex], ...] | None = None
    """The function as a sum of a exp(b z), pairs (a, b), where it is one."""

    bump_rate: float | None = None
    """q where the function is exp(-q z^2)."""

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        *,
        name: str,
        kinks: Sequence[float] = (),
        jumps: Sequence[float] = (),
        derivative: Callable[[Tensor], Tensor] | None = None,
        precision: float = 1e-16,
        spelling: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not all(math.isfinite(k) for k in (*kinks, *jumps)):
            raise ValueError(
                f"got kinks={list(kinks)[:6]} of {name}: give finite numbers, or None to have them looked for."
            )
        self.name = name
        self._fn = fn
        self.kinks: tuple[float, ...] = tuple(sorted({float(k) for k in (*kinks, *jumps)}))
        self.jumps: tuple[float, ...] = tuple(sorted({float(k) for k in jumps}))
        self._derivative = derivative
        self.precision = precision
        self.spelling = spelling
        self.rtol = max(1e-10, 100 * precision)

    def __repr__(self) -> str:
        return f"Activation({self.name!r}, kinks={self.kinks})"

    def fn(self, z: Tensor) -> Tensor:
        """sigma(z), pointwise."""
        return self._fn(z)

    def __call__(self, z: Tensor) -> Tensor:
        """sigma(z), pointwise."""
        return self._fn(z)

    def derivative(self, z: Tensor) -> Tensor:
        """sigma'(z), pointwise; at a kink one of the one-sided values.

        Args:
            z: points, any shape.
        Returns:
            Shape, dtype and device of z.
        """
        if self._derivative is not None:
            return self._derivative(z)
        return moments.autodiff(self._fn, z)

    @property
    def slopes(self) -> tuple[float, float] | None:
        """(a_plus, a_minus) where sigma(z) = a_plus z for z > 0 and a_minus z for z < 0, else None."""
        return None

    @property
    def scale_invariant(self) -> bool:
        """Whether sigma(k z) = k sigma(z) for every k > 0."""
        return self.slopes is not None

    def hermite(self, K: Tensor | float, order: int) -> Tensor:
        r"""Coefficients :math:`c_k(K) = \langle\sigma(\sqrt K x)\, He_k(x)/\sqrt{k!}\rangle`, k = 0..order.

        Args:
            K: variances, any shape, units of z squared.
            order: highest degree.
        Returns:
            Shape (..., order + 1), dtype and device of K; sum_k c_k^2 rho^k is ``dual`` at equal variances.
        Raises:
            ValueError: a variance is negative.
        """
        (given,) = moments.common_dtype(K)
        return hermite_coefficients(self.fn, given, order, self.kinks)

    def taylor(self, order: int = 5) -> tuple[Tensor, Tensor]:
        r"""Derivatives :math:`\sigma^{(p)}(0^\pm)`, p = 0..order, at 0 from the right and from the left.

        Args:
            order: highest derivative.
        Returns:
            (from the right, from the left), float64 tensors of shape (order + 1,).
        Raises:
            ValueError: order is negative.
        """
        return one_sided_derivatives(self.fn, order, self.precision)

    def mean(self, K: Tensor | float) -> Tensor:
        """<sigma>_K; K holds variances of any shape, units of z squared."""
        return self.estimate("mean", K).value

    def second_moment(self, K: Tensor | float) -> Tensor:
        """g(K) = <sigma^2>_K; K holds variances of any shape, units of z squared."""
        return self.estimate("second_moment", K).value

    def second_moment_slope(self, K: Tensor | float) -> Tensor:
        """g'(K) = <z sigma sigma'>/K = <sigma'^2> + <sigma sigma''>, delta functions at kinks included."""
        return self.estimate("second_moment_slope", K).value

    def second_moment_curvature(self, K: Tensor | float) -> Tensor:
        """g''(K) = <sigma^2 (z^4 - 6 K z^2 + 3 K^2)>/(4 K^4)."""
        return self.estimate("second_moment_curvature", K).value

    def derivative_moment(self, K: Tensor | float) -> Tensor:
        """<sigma'^2>_K.

        Args:
            K: variances, any shape, units of z squared.
        Returns:
            Shape, dtype and device of K.
        Raises:
            ValueError: sigma jumps, so that the moment is infinite.
        """
        return self.estimate("derivative_moment", K).value

    def derivative_mean(self, K: Tensor | float) -> Tensor:
        """<sigma'>_K = <z sigma>/K, jumps included."""
        return self.estimate("derivative_mean", K).value

    def value_curvature(self, K: Tensor | float) -> Tensor:
        """<sigma sigma''>_K = g'(K) - <sigma'^2>_K, delta functions at kinks included.

        Its sign tells whether the kernel (positive) or a difference of inputs (negative) grows faster.

        Args:
            K: variances, any shape, units of z squared.
        Returns:
            Shape, dtype and device of K.
        Raises:
            ValueError: sigma jumps, so that the moment is infinite.
        """
        return self.estimate("value_curvature", K).value

    def fourth_moment(self, K: Tensor | float) -> Tensor:
        """<sigma^4>_K."""
        return self.estimate("fourth_moment", K).value

    @torch.no_grad()
    def estimate(self, quantity: str, K: Tensor | float) -> Expectation:
        """A one-variable moment together with its error estimate.

        Args:
            quantity: name of one of the one-variable methods, such as "second_moment".
            K: variances, any shape, units of z squared.
        Returns:
            Expectation of the shape, dtype and device of K.
        Raises:
            ValueError: the quantity is unknown, a variance is negative, or the moment is infinite.
        """
        hook = getattr(self, f"_{quantity}", None) if quantity in moments.QUANTITIES else None
        if hook is None:
            raise ValueError(
                f"no moment called {quantity!r} of {self.name}; pass one of {', '.join(moments.QUANTITIES)}"
            )
        return moments.evaluate(hook, K)

    def dual(self, Kaa: Tensor | float, Kab: Tensor | float, Kbb: Tensor | float, rtol: float = 1e-10) -> Tensor:
        """<sigma(z_a) sigma(z_b)>, elementwise.

        Args:
            Kaa: variances of the first points, broadcast, units of z squared.
            Kab: covariances.
            Kbb: variances of the second points.
            rtol: wanted error relative to the root of the product of the two second moments.
        Returns:
            Broadcast shape, dtype and device of the inputs.
        Raises:
            ValueError: the entries are not those of a covariance.
        """
        return self._pair_values(Kaa, Kab, Kbb, rtol, derivative=False)

    def dual_derivative(
        self, Kaa: Tensor | float, Kab: Tensor | float, Kbb: Tensor | float, rtol: float = 1e-10
    ) -> Tensor:
        """<sigma'(z_a) sigma'(z_b)>, elementwise; arguments as for ``dual``.

        Returns:
            Broadcast shape, dtype and device of the inputs.
        Raises:
            ValueError: the entries are not those of a covariance, or sigma jumps.
        """
        return self._pair_values(Kaa, Kab, Kbb, rtol, derivative=True)

    def gram(self, K: Tensor, rtol: float = 1e-10) -> Tensor:
        """<sigma(z_a) sigma(z_b)> for every pair of a covariance matrix.

        Args:
            K: covariance matrices, shape (..., m, m), units of z squared.
            rtol: wanted error relative to the root of the product of the two second moments.
        Returns:
            Shape, dtype and device of K; the diagonal is ``second_moment`` of K's.
        Raises:
            ValueError: K is not square, or not a covariance.
        """
        return self.estimate_gram(K, rtol).value

    def gram_derivative(self, K: Tensor, rtol: float = 1e-10) -> Tensor:
        """<sigma'(z_a) sigma'(z_b)> for every pair of a covariance matrix; arguments as for ``gram``.

        Returns:
            Shape, dtype and device of K; the diagonal is ``derivative_moment`` of K's.
        Raises:
            ValueError: K is not square or not a covariance, or sigma jumps.
        """
        return self.estimate_gram(K, rtol, derivative=True).value

    @torch.no_grad()
    def estimate_dual(
        self,
        Kaa: Tensor | float,
        Kab: Tensor | float,
        Kbb: Tensor | float,
        rtol: float = 1e-10,
        *,
        derivative: bool = False,
    ) -> Expectation:
        """``dual`` or ``dual_derivative`` together with its error estimate; arguments as there."""
        a, c, b = moments.common_dtype(Kaa, Kab, Kbb)
        out = self._pairs(a, c, b, rtol, derivative)
        if isinstance(out, Expectation):
            return out
        moment = self.derivative_moment if derivative else self.second_moment
        scale = (moment(a.to(torch.float64)) * moment(b.to(torch.float64))).sqrt()
        return Expectation(out, _ROUNDING * scale.expand_as(out)).to(c.dtype)

    def _pairs(self, a: Tensor, c: Tensor, b: Tensor, rtol: float, derivative: bool) -> Expectation | Tensor:
        """Closed form in float64 where there is one, else the series with its error."""
        if derivative:
            moments.refuse_jumps(self.name, self.jumps, "<sigma'_a sigma'_b>")
        closed = (self._dual_derivative if derivative else self._dual)(Pair.of(a, c, b))
        if closed is not None:
            return closed
        f = self.derivative if derivative else self.fn
        return mean_product(f, a, c, b, kinks=self.kinks, rtol=max(rtol, self.rtol), near=self._near(derivative))

    def _pair_values(
        self, Kaa: Tensor | float, Kab: Tensor | float, Kbb: Tensor | float, rtol: float, derivative: bool
    ) -> Tensor:
        a, c, b = moments.common_dtype(Kaa, Kab, Kbb)
        with torch.no_grad():
            out = self._pairs(a, c, b, rtol, derivative)
        return (out.value if isinstance(out, Expectation) else out).to(c.dtype)

    @torch.no_grad()
    def estimate_gram(self, K: Tensor, rtol: float = 1e-10, *, derivative: bool = False) -> Expectation:
        """``gram`` or ``gram_derivative`` together with its error estimate; arguments as there.

        Returns:
            Expectation of the shape, dtype and device of K.
        Raises:
            ValueError: K is not square or not a covariance, or sigma jumps and derivatives are asked for.
        """
        if not isinstance(K, Tensor) or K.ndim < 2 or K.shape[-1] != K.shape[-2]:
            got = f"shape {tuple(K.shape)}" if isinstance(K, Tensor) else repr(K)
            raise ValueError(f"K must be square in its last two axes, got {got}; pass (..., m, m)")
        if derivative:
            moments.refuse_jumps(self.name, self.jumps, "<sigma'_a sigma'_b>")
        diagonal = K.diagonal(dim1=-2, dim2=-1)
        hook = self._dual_derivative if derivative else self._dual
        if hook(Pair.of(diagonal[..., :1], diagonal[..., :1] * 0, diagonal[..., :1])) is None:
            f = self.derivative if derivative else self.fn
            return mean_product_gram(f, K, kinks=self.kinks, rtol=max(rtol, self.rtol), near=self._near(derivative))
        closed = hook(Pair.of(diagonal[..., :, None], K, diagonal[..., None, :]))
        value = torch.as_tensor(closed)
        moment = self.derivative_moment if derivative else self.second_moment
        exact = moment(diagonal.to(torch.float64))
        value.diagonal(dim1=-2, dim2=-1).copy_(exact)
        scale = exact.sqrt()
        return Expectation(value, _ROUNDING * scale[..., :, None] * scale[..., None, :]).to(K.dtype)

    @torch.no_grad()
    def flat_fraction(self, K: Tensor | float, tol: float = 0.01) -> Tensor:
        """Probability under N(0, K) that |sigma'(z)| < tol max |sigma'|, the maximum over |z| <= 5 sqrt(K).

        Args:
            K: variances, any shape, units of z squared.
            tol: fraction of the largest slope below which a unit counts as dead or saturated.
        Returns:
            Probabilities in [0, 1], shape, dtype and device of K; 1 where the slope vanishes on the whole
            range.
        """
        return moments.flat_fraction(self.derivative, K, tol)

    def _mean(self, K: Tensor) -> Expectation | Tensor:
        return moments.one(self.fn, K, self.kinks, self.rtol)

    def _second_moment(self, K: Tensor) -> Expectation | Tensor:
        return moments.one(lambda z: self.fn(z) ** 2, K, self.kinks, self.rtol)

    def _fourth_moment(self, K: Tensor) -> Expectation | Tensor:
        return moments.one(lambda z: self.fn(z) ** 4, K, self.kinks, self.rtol)

    def _derivative_mean(self, K: Tensor) -> Expectation | Tensor:
        if self.jumps:
            return moments.stein_mean(self.fn, K, self.kinks, self.rtol)
        return moments.one(self.derivative, K, self.kinks, self.rtol)

    def _derivative_moment(self, K: Tensor) -> Expectation | Tensor:
        moments.refuse_jumps(self.name, self.jumps, "<sigma'^2>")
        return moments.one(lambda z: self.derivative(z) ** 2, K, self.kinks, self.rtol)

    def _second_moment_slope(self, K: Tensor) -> Expectation | Tensor:
        if self.closed_second_moment:
            return moments.slope_of_closed_form(self._second_moment, K)
        return moments.second_moment_slope(self.fn, self.derivative, K, self.kinks, self.jumps, self.rtol)

    def _second_moment_curvature(self, K: Tensor) -> Expectation | Tensor:
        if self.closed_second_moment:
            return moments.slope_of_closed_form(lambda k: moments.slope_of_closed_form(self._second_moment, k), K)
        return moments.second_moment_curvature(self.fn, self.derivative, K, self.kinks, self.jumps, self.rtol)

    def _value_curvature(self, K: Tensor) -> Expectation | Tensor:
        moments.refuse_jumps(self.name, self.jumps, "<sigma sigma''>")
        if not self.kinks:
            direct = moments.smooth_value_curvature(self.fn, self.derivative, K, self.rtol)
            if direct is not None:
                return direct
        slope, square = (moments.evaluate(h, K) for h in (self._second_moment_slope, self._derivative_moment))
        return Expectation(slope.value - square.value, slope.error + square.error)

    def _dual(self, pair: Pair) -> Tensor | None:
        return None

    def _dual_derivative(self, pair: Pair) -> Tensor | None:
        return None

    def _near(self, derivative: bool) -> Callable[[Tensor, Tensor, Tensor, float], Expectation] | None:
        """What to use for flat (Kaa, rho, Kbb, rtol) where the Mehler series misses; None: quadrature."""
        return None
