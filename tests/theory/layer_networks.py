"""Networks of one kind of layer: an activation, a norm before or after it or none, a skip around it or none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ACTS = {"tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu, "erf": torch.erf, "linear": nn.Identity()}


class Layer(nn.Module):
    """h' = W s(h) + b + gamma h, with a norm before or after s."""

    def __init__(self, width: int, act: str, norm: str, residual: float) -> None:
        super().__init__()
        self.fc, self.act, self.residual, self.place = (
            nn.Linear(width, width),
            ACTS[act],
            residual,
            norm.rpartition("_")[2],
        )
        self.norm: nn.Module = nn.Identity()
        if norm.startswith("layer"):
            self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-12)
        elif norm.startswith("rms"):
            self.norm = nn.RMSNorm(width, elementwise_affine=False, eps=1e-12)

    def forward(self, h: Tensor) -> Tensor:
        z = self.norm(self.act(h)) if self.place == "after" else self.act(self.norm(h))
        out = self.fc(z)
        return out + self.residual * h if self.residual else out


class Stack(nn.Module):
    def __init__(self, width: int, depth: int, *layer: object) -> None:
        super().__init__()
        self.first = nn.Linear(8, width, bias=False)
        self.layers = nn.ModuleList(Layer(width, *layer) for _ in range(depth))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Preactivations of the last layer."""
        h = self.first(x)
        for layer in self.layers:
            h = layer(h)
        return h


def law(depth: int, C_W: float, C_b: float) -> dict[str, dict[str, float]]:
    """Stated laws of a stack whose first layer hands on |x|^2/n_0 as the kernel."""
    return {"first": {"C_W": 1.0}} | {f"layers.{i}.fc": {"C_W": C_W, "C_b": C_b} for i in range(depth)}
