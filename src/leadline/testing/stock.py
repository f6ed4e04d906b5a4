"""Networks that people really have, built small from a configuration with random weights; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FULL_SIZES", "STOCK", "image_batch", "stock", "token_batch"]

# name: (configuration class, model class, settings of a small one)
STOCK: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {
            "n_layer": 4,
            "n_embd": 128,
            "n_head": 4,
            "vocab_size": 512,
            "n_positions": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "use_cache": False,
        },
    ),
    "llama": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {
            "num_hidden_layers": 4,
            "hidden_size": 128,
            "intermediate_size": 344,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 512,
            "max_position_embeddings": 64,
            "use_cache": False,
        },
    ),
    "bert": (
        "BertConfig",
        "BertForMaskedLM",
        {
            "num_hidden_layers": 4,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "vocab_size": 512,
            "max_position_embeddings": 64,
        },
    ),
    "vit": (
        "ViTConfig",
        "ViTForImageClassification",
        {
            "num_hidden_layers": 4,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "num_labels": 10,
        },
    ),
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 256], "depths": [1, 1, 1, 1], "num_labels": 10},
    ),
    "convnext": (
        "ConvNextConfig",
        "ConvNextForImageClassification",
        {"hidden_sizes": [64, 128, 128, 256], "depths": [1, 1, 2, 1], "patch_size": 2, "num_labels": 10},
    ),
}

# the settings of the model that carries the name: its true depth and width
FULL_SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"use_cache": False},
    "llama": {
        "num_hidden_layers": 32,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "vocab_size": 4096,
        "use_cache": False,
    },
    "bert": {},
    "vit": {},
    "resnet": {},
    "convnext": {},
}


def stock(name: str, *, seed: int = 0, full: bool = False, **settings: Any) -> nn.Module:
    """Build a model of the ``transformers`` library in eval mode from its configuration.

    Args:
        name: one of :data:`STOCK`.
        seed: of the weights.
        full: the true depth (Llama at an eighth of its width) instead of a small model.
        settings: of the configuration class, over those of :data:`STOCK`.

    Returns:
        The model.

    Raises:
        KeyError: no such name.
    """
    import transformers

    config_class, model_class, small = STOCK[name]
    chosen: Mapping[str, Any] = {**(FULL_SIZES[name] if full else small), **settings}
    config = getattr(transformers, config_class)(**chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = getattr(transformers, model_class)(config)
    return model.eval()


def token_batch(*, samples: int = 2, tokens: int = 16, vocabulary: int = 512, seed: int = 1) -> dict[str, Tensor]:
    """Random token ids as keyword arguments, shape (samples, tokens)."""
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(vocabulary, (samples, tokens), generator=generator)}


def image_batch(*, samples: int = 2, pixels: int = 32, channels: int = 3, seed: int = 1) -> dict[str, Tensor]:
    """Random images as keyword arguments, unit variance, shape (samples, channels, pixels, pixels)."""
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(samples, channels, pixels, pixels, generator=generator)}
