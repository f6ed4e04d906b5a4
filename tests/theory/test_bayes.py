"""Posterior and evidence against scipy and first principles; corrections in 1/n against exact averages."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scipy.stats import multivariate_normal

from leadline.theory.bayes import finite_width_posterior, gp_posterior, importance_posterior

NOISE = 0.09


def problem(m: int = 4, M: int = 2, outputs: int = 2, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(m, m, generator=generator, dtype=torch.float64)
    return root @ root.T / m + 0.3, torch.randn(M, outputs, generator=generator, dtype=torch.float64)


def test_posterior_is_that_of_conditioned_gaussians() -> None:
    K, Y = problem()
    out = gp_posterior(K, Y, NOISE)
    # the same from the joint precision of (z at all inputs, noisy targets)
    precision = torch.linalg.inv(K)
    precision[:2, :2] += torch.eye(2, dtype=torch.float64) / NOISE
    covariance = torch.linalg.inv(precision)
    torch.testing.assert_close(out.covariance, covariance, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(out.mean, covariance[:, :2] @ Y / NOISE, rtol=1e-10, atol=1e-10)
    law = multivariate_normal(cov=(K[:2, :2] + NOISE * torch.eye(2, dtype=torch.float64)).numpy())
    assert float(out.log_evidence) == pytest.approx(sum(law.logpdf(Y.T.numpy())), rel=1e-12)
    assert float(out.jitter) == 0


def test_evidence_factors_into_one_target_after_another() -> None:
    K, Y = problem(m=4, M=4, outputs=1)
    chain = 0.0
    for i in range(4):
        before = gp_posterior(K[: i + 1, : i + 1], Y[:i], NOISE) if i else None
        mean = before.mean[i, 0] if before else torch.zeros((), dtype=torch.float64)
        variance = (before.covariance if before else K)[i, i] + NOISE
        chain = chain + torch.distributions.Normal(mean, variance.sqrt()).log_prob(Y[i, 0])
    assert float(gp_posterior(K, Y, NOISE).log_evidence) == pytest.approx(float(chain), rel=1e-12)


def test_batches_permutations_and_precision() -> None:
    K, Y = problem()
    one = gp_posterior(K, Y, NOISE)
    many = gp_posterior(torch.stack([2 * K, K]), Y, NOISE)
    torch.testing.assert_close(many.mean[1], one.mean)
    torch.testing.assert_close(many.log_evidence[1], one.log_evidence)
    order = torch.tensor([1, 0, 3, 2])
    moved = gp_posterior(K[order][:, order], Y.flip(0), NOISE)
    torch.testing.assert_close(moved.mean, one.mean[order])
    single = gp_posterior(K.float(), Y.float(), NOISE)
    assert single.mean.dtype == torch.float32
    torch.testing.assert_close(single.mean.double(), one.mean, rtol=1e-4, atol=1e-5)


def test_equal_inputs_without_noise_need_a_jitter_that_is_said() -> None:
    K, Y = torch.ones(3, 3, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    out = gp_posterior(K, Y, 0.0)
    assert 0 < float(out.jitter) < 1e-10
    torch.testing.assert_close(out.mean, torch.ones(3, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("K", "Y", "noise", "message"),
    [
        (torch.eye(3), torch.ones(4), 0.1, "got targets of shape"),
        (torch.ones(3, 2), torch.ones(2), 0.1, "got a kernel of shape"),
        (torch.eye(3), torch.ones(2), -0.1, "got a noise variance"),
        (torch.eye(3) * torch.nan, torch.ones(2), 0.1, "NaN or infinite"),
        (-torch.eye(3), torch.ones(2), 0.1, "got a kernel with eigenvalue -1"),
    ],
)
def test_what_cannot_be_used_is_refused(K: torch.Tensor, Y: torch.Tensor, noise: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gp_posterior(K, Y, noise)


def scattered(n: float, K: torch.Tensor) -> torch.Tensor:
    """Kernels around K with deviations in pairs of both signs, of size n^(-1/2), and a shift of size 1/n."""
    m = K.shape[0]
    generator = torch.Generator().manual_seed(1)
    step = torch.randn(300, m, m, generator=generator, dtype=torch.float64) * 0.15
    # correlated entries, so that every block of V counts
    step = step + step.mT + 0.3 * torch.randn(300, 1, 1, generator=generator, dtype=torch.float64) * K
    shift = torch.tensor([[0.3, -0.2, 0.1, 0.4]], dtype=torch.float64)
    return K + torch.cat([step, -step]) / n**0.5 + shift.T @ shift / n


def corrections(n: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Exact n (average - infinite width), the coefficients, and the coefficients with a term left out."""
    K, Y = problem()
    kernels = scattered(n, K)
    shift = n * (kernels.mean(0) - K)
    apart = kernels - kernels.mean(0)
    V = n * torch.einsum("kab,kcd->abcd", apart, apart) / len(apart)
    exact = importance_posterior(kernels, Y, NOISE)
    first = finite_width_posterior(K, V, shift, Y, NOISE)
    infinite = first.covariance_at(torch.inf)
    found = {
        "mean": n * (exact.mean - first.infinite.mean),
        "covariance": n * (exact.covariance - infinite),
        "log_evidence": n * (exact.log_evidence - first.infinite.log_evidence),
        "kernel": n * (exact.kernel - K),
    }

    def values(p: object) -> dict[str, torch.Tensor]:
        covariance = p.covariance_at(1) - infinite
        return {"mean": p.mean, "covariance": covariance, "log_evidence": p.log_evidence, "kernel": p.kernel}

    without_V = values(finite_width_posterior(K, torch.zeros_like(V), shift, Y, NOISE))
    # each output learning from its own data alone: the Hebbian coupling is missing
    alone = [finite_width_posterior(K, V, shift, y, NOISE) for y in Y.T]
    uncoupled = dataclasses.replace(
        first,
        mean=torch.cat([a.mean for a in alone], dim=1),
        cross_covariance=torch.zeros_like(first.cross_covariance),
        log_evidence=sum(a.log_evidence for a in alone),
        kernel=alone[0].kernel,
    )
    return found, values(first), {"without V": without_V, "uncoupled": values(uncoupled)}


@pytest.mark.parametrize("quantity", ["mean", "covariance", "log_evidence", "kernel"])
def test_coefficients_of_one_over_n_are_exact(quantity: str) -> None:
    """Against averages over given kernels, without noise of sampling: the rest falls as 1/n."""

    def rest(n: float, which: str | None = None) -> float:
        found, predicted, wrong = corrections(n)
        other = predicted if which is None else wrong[which]
        return float((found[quantity] - other[quantity]).abs().max() / found[quantity].abs().max())

    assert rest(1e4) < 0.01
    assert rest(1e4) / rest(1e5) == pytest.approx(10, rel=0.1)
    for control in ("without V", "uncoupled"):
        assert rest(1e5, control) > 0.05


def test_data_move_nothing_at_infinite_width_and_one_output_moves_another_at_finite() -> None:
    K, Y = problem()
    _, predicted, _ = corrections(1e4)
    V = torch.einsum("ab,cd->abcd", K, K)
    here = finite_width_posterior(K, V, torch.zeros_like(K), Y, NOISE)
    moved = Y.clone()
    moved[:, 1] *= 3  # the second output's data
    there = finite_width_posterior(K, V, torch.zeros_like(K), moved, NOISE)
    torch.testing.assert_close(here.infinite.mean[:, 0], there.infinite.mean[:, 0])
    assert float((here.mean[:, 0] - there.mean[:, 0]).abs().max()) > 1e-2
    assert float(predicted["covariance"][3, 0, 3, 1].abs()) > 1e-3  # outputs covary


def test_too_few_effective_kernels_are_refused() -> None:
    K, Y = problem()
    with pytest.raises(ValueError, match="effective"):
        importance_posterior(scattered(1.0, K)[:20], Y, NOISE)
    with pytest.raises(ValueError, match=r"got V of shape"):
        finite_width_posterior(K, K, K, Y, NOISE)
