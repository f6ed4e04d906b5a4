"""Broken and healthy networks as data, each with the verdict that it must get and a task to train it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from leadline.testing.init import gaussian_, orthogonal_
from leadline.testing.networks import PreNormMLP, mlp
from leadline.testing.networks_attention import Transformer
from leadline.testing.networks_conv import cnn
from leadline.testing.stock import stock
from leadline.testing.tasks import Task, digits, own_token, radius, topic

__all__ = ["BROKEN", "HEALTHY", "VerdictCase"]


@dataclass(frozen=True)
class VerdictCase:
    """A network with a task, and what the check must say of it.

    ``verdicts``: (rule, layer) pairs, any of which names the fault where it is (a layer stands for its submodules too);
    none where the network is healthy.
    """

    id: str
    build: Callable[[], nn.Module]
    task: Task
    verdicts: tuple[tuple[str, str], ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether no verdict is expected."""
        return not self.verdicts

    def wants(self, rule: str, layer: str) -> bool:
        """Whether a verdict of this rule at this layer is one that the case must get."""
        return any(rule == r and (layer == where or layer.startswith(f"{where}.")) for r, where in self.verdicts)

    def batch(self, samples: int = 8) -> Any:
        """What the check sees: the first samples of the task."""
        x = self.task.draw(torch.Generator().manual_seed(0))[0]
        return {k: v[:samples] for k, v in x.items()} if isinstance(x, dict) else x[:samples]


def _seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _drawn(make: Callable[[], nn.Module], C_W: float, C_b: float = 0.0) -> nn.Module:
    return gaussian_(_seeded(make), C_W, C_b)


def _mlp(act: str, width: int, depth: int, *, n_in: int = 64, n_out: int = 10) -> Callable[[], nn.Module]:
    return partial(mlp, [n_in, *[width] * depth, n_out], act)


def _dead(depth: int = 3) -> nn.Module:
    net = _drawn(_mlp("relu", 128, depth), 2.0)
    with torch.no_grad():
        net.get_parameter("2.bias").fill_(-20.0)
    return net


class _Scaled(nn.Module):
    """A network whose output is multiplied by a constant."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.inner(x)


class _Last(nn.Module):
    """The vector of the last token (or step)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[:, -1]


class _LSTM(nn.Module):
    def __init__(self, features: int, width: int, n_out: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, batch_first=True)
        self.head = nn.Linear(width, n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class _GPT2Classifier(nn.Module):
    def __init__(self, inner: nn.Module, n_out: int) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(64, n_out)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.inner(input_ids=ids).last_hidden_state[:, -1])


def _gpt2(depth: int, spread: float, embedding: float, *, scaled: bool) -> nn.Module:
    """GPT-2 of width 64 with a wide init; unless ``scaled``, its residual projections are drawn like the rest."""
    model = stock(
        "gpt2",
        n_layer=depth,
        n_embd=64,
        n_head=4,
        vocab_size=64,
        n_positions=16,
        initializer_range=spread,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    inner = model.get_submodule("transformer")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in inner.named_parameters():
            if name.endswith("c_proj.weight") and not scaled:
                parameter.normal_(0.0, spread, generator=generator)
            if name.startswith(("wte", "wpe")):
                parameter.mul_(embedding / spread)
    return _seeded(partial(_GPT2Classifier, inner, 8))


def _large_embedding() -> nn.Module:
    model = _Last(_drawn(partial(Transformer, 64, 64, 2, 4, 16, n_out=8), 1.0))
    with torch.no_grad():
        model.get_parameter("inner.embed.weight").mul_(1e6)
    return model


BROKEN: list[VerdictCase] = [
    VerdictCase(
        "gpt2-unscaled-residual",
        partial(_gpt2, 48, 0.35, 8.0, scaled=False),
        topic(64, 16, 8, samples=16),
        (("residual-growth", "inner.h.0"),),
    ),
    VerdictCase(
        "uncentred-inputs",
        lambda: _drawn(_mlp("relu", 64, 6), 2.0),
        digits(scale=1e-3, offset=1.0),
        (("input-scale", "0"),),
    ),
    VerdictCase(
        "embedding-too-large",
        _large_embedding,
        topic(64, 16, 8, samples=8),
        (("embedding-scale", "inner.embed"),),
    ),
    VerdictCase(
        "relu-60-width-16",
        lambda: _drawn(_mlp("relu", 16, 60), 2.0),
        digits(),
        (("too-deep-for-width", "3"),),  # 5/16 a layer: one half is passed at the second
    ),
    VerdictCase(
        "post-ln-24",
        lambda: _drawn(partial(Transformer, 64, 64, 24, 4, 16, place="post"), 1.0),
        own_token(64, 16, samples=2),
        (("norm-placement", "blocks.0.norm1"),),
    ),
    VerdictCase(
        "sigmoid-10",
        lambda: _seeded(_mlp("sigmoid", 64, 10)),
        digits(),
        (("vanishing-gradient", "0"), ("rank-collapse", "2")),
    ),
    VerdictCase(
        "tanh-40-torch-default",
        lambda: _seeded(_mlp("tanh", 64, 40)),
        digits(),
        (("vanishing-signal", "0"), ("vanishing-gradient", "0")),
    ),
    VerdictCase("relu-he-times-4", lambda: _drawn(_mlp("relu", 64, 90), 8.0), digits(), (("exploding-signal", "0"),)),
    VerdictCase("tanh-chaos", lambda: _drawn(_mlp("tanh", 64, 30), 9.0), digits(), (("chaos", "2"),)),
    VerdictCase("dead-relu", _dead, digits(), (("dead-units", "3"),)),
    VerdictCase(
        "saturated-tanh",
        lambda: _drawn(_mlp("tanh", 64, 3, n_in=4, n_out=2), 1.0),
        radius(4, scale=100.0),
        (("saturation", "1"),),
    ),
    VerdictCase(
        "residual-120-unscaled",
        lambda: _drawn(partial(PreNormMLP, 64, 32, 120, 10, norm=lambda n: nn.Identity()), 2.0),
        digits(),
        (("residual-growth", "blocks"), ("exploding-signal", "enter")),
    ),
    VerdictCase(
        "logits-times-1e24",
        lambda: _Scaled(_drawn(_mlp("relu", 64, 3), 2.0), 1e24),
        digits(),
        (("output-scale", "inner.6"), ("exploding-signal", "inner.6")),
    ),
    VerdictCase(
        "output-scale-lost",
        lambda: _Scaled(_drawn(_mlp("relu", 64, 3), 2.0), 1e-8),
        digits(),
        (("output-scale", "inner.6"),),
    ),
    VerdictCase(
        "attention-without-skip",
        lambda: _drawn(partial(Transformer, 64, 64, 8, 4, 16, skip=False, causal=False), 1.0),
        own_token(64, 16, samples=2),
        (("attention-collapse", "blocks.0.attention"),),
    ),
]

_VIT: dict[str, Any] = {
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 64,
    "intermediate_size": 256,
}
_TEXT: dict[str, Any] = {"vocab_size": 64}

HEALTHY: list[VerdictCase] = [
    VerdictCase(
        "transformer-pre-ln-12", lambda: _drawn(partial(Transformer, 64, 64, 12, 4, 16), 0.3), own_token(64, 16)
    ),
    VerdictCase(
        "gpt2",
        lambda: stock("gpt2", n_embd=64, **_TEXT, n_positions=16, bos_token_id=0, eos_token_id=0),
        own_token(64, 16, keyword="input_ids"),
    ),
    VerdictCase(
        "llama",
        lambda: stock("llama", hidden_size=64, intermediate_size=172, **_TEXT),
        own_token(64, 16, keyword="input_ids"),
    ),
    VerdictCase(
        "bert",
        lambda: stock("bert", hidden_size=64, intermediate_size=256, **_TEXT),
        own_token(64, 16, keyword="input_ids"),
    ),
    VerdictCase("vit", lambda: stock("vit", **_VIT), digits("image", keyword="pixel_values")),
    VerdictCase(
        "resnet",
        lambda: stock("resnet", num_channels=1, embedding_size=32, hidden_sizes=[32, 64], depths=[2, 2]).train(),
        digits("image", keyword="pixel_values", samples=32),
    ),
    VerdictCase(
        "convnext",
        lambda: stock("convnext", num_channels=1, patch_size=1, hidden_sizes=[32, 64], depths=[2, 2], num_stages=2),
        digits("image", keyword="pixel_values", samples=32),
    ),
    VerdictCase("gpt2-scaled-residual", partial(_gpt2, 48, 0.35, 8.0, scaled=True), topic(64, 16, 8, samples=16)),
    VerdictCase("relu-he-10", lambda: _drawn(_mlp("relu", 256, 10), 2.0), digits()),
    VerdictCase("tanh-orthogonal-20", lambda: orthogonal_(_seeded(_mlp("tanh", 256, 20))), digits()),
    VerdictCase("tanh-critical-20", lambda: _drawn(_mlp("tanh", 512, 20), 1.0), digits(samples=32)),
    VerdictCase("gelu-critical-10", lambda: _drawn(_mlp("gelu", 256, 10), 1.98305826, 0.17292239), digits()),
    VerdictCase(
        "residual-pre-ln-24",
        lambda: _drawn(partial(PreNormMLP, 64, 128, 24, 10, scale=24**-0.5, last_norm=nn.LayerNorm), 1.0),
        digits(),
    ),
    VerdictCase("mlp-3-torch-default", lambda: _seeded(_mlp("relu", 128, 3)), digits()),
    VerdictCase("selu-10", lambda: _drawn(_mlp("selu", 256, 10), 1.0), digits()),
    VerdictCase("lstm", lambda: _seeded(partial(_LSTM, 8, 64, 10)), digits("rows")),
    VerdictCase(
        "cnn-torch-default",
        lambda: _seeded(partial(cnn, 32, n_in=1, n_out=10, layers=({"padding": 1}, {"padding": 1}), pixels=8)),
        digits("image"),
    ),
]
