"""The nearly-kernel machine: :class:`NearlyKernelMachine` predicts a trained quadratic model to first order."""

from __future__ import annotations

from leadline.theory.nearly_kernel.machine import LeastNorm, NearlyKernelMachine, effective_features, quadratic_model

__all__ = ["LeastNorm", "NearlyKernelMachine", "effective_features", "quadratic_model"]
