"""Expected squared error of a trained wide network: bias and variance over initializations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from leadline.theory.dynamics.linearized import TrainedEnsemble

__all__ = ["ExpectedError", "expected_error"]


@dataclass(frozen=True)
class ExpectedError:
    """Expected squared error over initializations, in units of z squared.

    ``bias``: squared, (T, m, outputs); ``variance`` (T, m, 1), the same for every output.
    """

    times: tuple[float, ...]
    bias: Tensor
    variance: Tensor

    @property
    def total(self) -> Tensor:
        """E (z - y)^2, shape (T, m, outputs)."""
        return self.bias + self.variance

    def best_time(self, skip: int = 0) -> float:
        """Time at which the error summed over inputs and outputs is least, the first ``skip`` inputs (the data) left out."""
        return self.times[int(self.total[:, skip:].sum((1, 2)).argmin())]


def expected_error(trained: TrainedEnsemble, values: Tensor) -> ExpectedError:
    r"""Expected squared error against true values, as squared bias and variance over initializations.

    .. math:: E (z_t - y)^2 = (\mu_t - y)^2 + \Sigma_t

    Args:
        trained: law of the trained network's outputs at m inputs.
        values: true values at all m inputs, shape (m,) or (m, outputs), units of z.

    Returns:
        Bias and variance at each time, input and output.

    Raises:
        ValueError: the values do not fit the inputs.

    Source: Roberts, Yaida and Hanin (2022), section 10.3.
    """
    y = values[:, None] if values.ndim == 1 else values
    if tuple(y.shape) != tuple(trained.mean.shape[1:]):
        wanted = f"{tuple(trained.mean.shape[1:])}, a row for each of all inputs, data included"
        raise ValueError(f"got values of shape {tuple(values.shape)}: give {wanted}.")
    variance = trained.covariance.diagonal(dim1=1, dim2=2)[..., None].clamp_min(0.0)
    return ExpectedError(trained.times, (trained.mean - y.to(trained.mean)) ** 2, variance)
