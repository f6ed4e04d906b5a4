"""Set-up of every test: one thread a worker, and laws that draw the same cases each time."""

from __future__ import annotations

import os

# Before torch is first imported: two workers with a thread pool each fight over the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# A deadline fails on a busy machine, not on a wrong law. HYPOTHESIS_PROFILE=explore draws new cases.
BUSY = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=50, suppress_health_check=BUSY
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=BUSY)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Give every test the same global generator, so that none depends on the tests before it."""
    torch.manual_seed(0)
