"""The verdict on a whole network: fresh ones are explained by init laws, trained ones are not."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from leadline.program.laws import TrainedVerdict, explains, read_law

transformers = pytest.importorskip("transformers")


def verdict(model: nn.Module) -> TrainedVerdict:
    return explains([read_law(p, fan_in=1, name=n) for n, p in model.named_parameters()])


def mlp(width: int = 96) -> nn.Sequential:
    layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def cnn() -> nn.Sequential:
    first = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16)]
    return nn.Sequential(*first, nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


def encoder() -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 4)


def initialized(model: nn.Module, init) -> nn.Module:
    for parameter in model.parameters():
        if parameter.dim() > 1:
            init(parameter)
    return model


def delta_orthogonal(kernel: torch.Tensor) -> None:
    centre = nn.init.orthogonal_(torch.empty(kernel.shape[:2]))
    with torch.no_grad():
        kernel.zero_()
        kernel[:, :, 1, 1] = centre


SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
IDS = {"vocab_size": 160, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
IMAGE = {"image_size": 32, "patch_size": 8}


def gpt2(layers: int = 2) -> nn.Module:
    config = transformers.GPT2Config(
        n_layer=layers, n_embd=64, n_head=4, vocab_size=128, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


FRESH = {
    "mlp": mlp,
    "mlp-narrow": lambda: mlp(8),
    "cnn": cnn,
    "encoder": encoder,
    "lstm": lambda: nn.LSTM(24, 48, 2),
    "attention": lambda: nn.MultiheadAttention(48, 4, kdim=24, vdim=24),
    "padding": lambda: nn.Sequential(nn.Embedding(100, 32, padding_idx=0), nn.Linear(32, 3)),
    "orthogonal": lambda: initialized(mlp(), nn.init.orthogonal_),
    "delta": lambda: initialized(nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3)), delta_orthogonal),
    "truncated": lambda: initialized(mlp(), lambda p: nn.init.trunc_normal_(p, std=0.02, a=-0.04, b=0.04)),
    "uniform": lambda: initialized(mlp(), nn.init.xavier_uniform_),
    "kaiming": lambda: initialized(mlp(), nn.init.kaiming_normal_),
    "gpt2": gpt2,
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **IDS)),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=160)),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**SMALL, **IMAGE)),
    "resnet": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 2], layer_type="basic")
    ),
    "convnext": lambda: transformers.ConvNextModel(
        transformers.ConvNextConfig(num_stages=2, depths=[1, 1], hidden_sizes=[16, 32])
    ),
    "mamba": lambda: transformers.MambaModel(
        transformers.MambaConfig(hidden_size=48, num_hidden_layers=2, vocab_size=160)
    ),
    "whisper": lambda: transformers.WhisperModel(
        transformers.WhisperConfig(
            d_model=64,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            decoder_start_token_id=2,
            **IDS,
        )
    ),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", FRESH)
def test_fresh_networks_are_explained(name, seed):
    torch.manual_seed(seed)
    found = verdict(FRESH[name]())
    assert not found.trained, found.reason
    assert found.p_value > 1e-5
    assert found.tested > 0
    assert found.tensors == ()


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)


def train(model: nn.Module, loss, steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


@pytest.mark.parametrize("build", [mlp, cnn], ids=["mlp", "cnn"])
def test_networks_trained_on_digits_are_recognised(build):
    x, y = digits()
    model = build()
    assert not verdict(model).trained
    train(model, lambda m: F.cross_entropy(m(x[:512]), y[:512]), 120, 3e-3)
    with torch.no_grad():
        assert float(F.cross_entropy(model(x), y)) < 0.5
    found = verdict(model)
    assert found.trained
    assert found.p_value < 1e-12
    assert "explained by no init law" in found.reason
    assert set(found.tensors) <= set(dict(model.named_parameters()))


def test_gpt2_that_has_halved_its_loss_is_recognised():
    model = gpt2()
    ids = torch.randint(128, (8, 32))

    def loss(m: nn.Module) -> torch.Tensor:
        return F.cross_entropy(m(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    before = float(loss(model).detach())
    train(model, loss, 25, 3e-3)
    assert float(loss(model).detach()) < before / 2
    found = verdict(model)
    assert found.trained
    assert found.p_value < 1e-12


def test_low_rank_update_is_recognised_above_the_edge_and_not_below():
    """A spike of strength s leaves a Gaussian bulk where s > (m n)^(1/4) sigma (Baik, Ben Arous, Peche)."""
    u, v = (F.normalize(torch.randn(128), dim=0) for _ in range(2))
    model = initialized(mlp(128), nn.init.kaiming_normal_)
    weight = model[3].weight
    edge = 128**0.5 * float(weight.detach().std())
    fresh = copy.deepcopy(weight.data)
    for strength, expected in ((0.5 * edge, False), (3.0 * edge, True)):
        weight.data = fresh + strength * torch.outer(u, v)
        found = verdict(model)
        assert found.trained == expected
    assert found.tensors == ("3.weight",)


def test_sharp_ends_of_a_uniform_law_show_an_update_below_the_edge():
    u, v = (F.normalize(torch.randn(128), dim=0) for _ in range(2))
    model = mlp(128)
    weight = model[3].weight.data
    assert not verdict(model).trained
    weight += 128**0.5 * weight.std() * torch.outer(u, v)
    found = verdict(model)
    assert found.trained
    assert "shape of the" in found.reason


def test_many_weak_signs_count_together_and_copies_once():
    def law(p_value: float, index: int):
        fresh = read_law(torch.randn(4, 4), fan_in=4, name=f"w{index}")
        return type(fresh)(**{**vars(fresh), "p_value": p_value})

    weak = [law(1e-4, i) for i in range(8)]
    rest = [law(0.5, i) for i in range(8, 40)]
    found = explains([*weak, *rest])
    assert found.trained
    assert found.tensors == tuple(f"w{i}" for i in range(8))
    assert "8 of 40" in found.reason
    assert not explains([weak[0]] * 8 + rest).trained
    assert not explains([law(0.5, i) for i in range(40)]).trained
    assert explains([]) == TrainedVerdict(False, (), 0, 1.0, "")
    assert explains([law(0.01, 0)]).p_value == pytest.approx(0.02)  # two ways to find it trained
