"""What a stock layer expects of its input, for the message that says what it got."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["advice"]

_SPATIAL = ("length", "height, width", "depth, height, width")
_BATCH = "change the batch or the layers before"


def advice(module: nn.Module, tensors: Sequence[Tensor]) -> tuple[str, str] | None:
    """What a layer expected where its input is not that, and what to do.

    Args:
        module: the layer that raised.
        tensors: the tensors that it was called with.

    Returns:
        What was expected and the way out; None where the input is as the layer wants it, or its kind unknown.
    """
    if not tensors:
        return None
    first = tensors[0]
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return _embedding(module, first)
    if not _is_stock(module):  # a module of the user's own may take ids and hold weights
        return None
    weight = next((p for p in module.parameters(recurse=False) if p.is_floating_point()), None)
    if weight is not None and first.device != weight.device:
        return (
            f"a tensor on {weight.device} and not on {first.device}",
            f"move the batch with .to('{weight.device}')",
        )
    if weight is not None and first.dtype != weight.dtype:
        name = str(weight.dtype).removeprefix("torch.")
        return (
            f"{name} as its weights are",
            f"convert the batch with .to(torch.{name}), or the model with .to()",
        )
    shape = _shape(module, first)
    return None if shape is None else (shape, _BATCH)


def _is_stock(module: nn.Module) -> bool:
    stock = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
    return isinstance(module, stock) or _transposed(module) is not None or _channels(module)[0] is not None


def _transposed(module: nn.Module) -> int | None:
    """Input features of the linear layer of GPT-2, whose weight is stored (in, out)."""
    features = getattr(module, "nx", None) if type(module).__name__ == "Conv1D" else None
    return features if isinstance(features, int) else None


def _embedding(module: nn.Embedding | nn.EmbeddingBag, ids: Tensor) -> tuple[str, str] | None:
    if ids.dtype not in (torch.int32, torch.int64):
        return (
            "integer ids (int64)",
            "convert the batch with .long(), or pass the ids rather than their embeddings",
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= module.num_embeddings:
        return (
            f"ids from 0 to {module.num_embeddings - 1} and not {low if low < 0 else high}",
            "use ids within the vocabulary, or a larger num_embeddings",
        )
    return None


def _shape(module: nn.Module, x: Tensor) -> str | None:
    """The shape that a stock layer takes, where ``x`` does not have it."""
    if isinstance(module, nn.Linear):
        return _last(x, module.in_features)
    transposed = _transposed(module)
    if transposed is not None:
        return _last(x, transposed)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        wanted = tuple(module.normalized_shape)
        return None if tuple(x.shape[-len(wanted) :]) == wanted else f"a shape that ends in {wanted}"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return _last(x, module.input_size)
    if isinstance(module, nn.MultiheadAttention):
        return _last(x, module.embed_dim)
    channels, spatial = _channels(module)
    if channels is None:
        return None
    if spatial is not None and x.dim() not in (spatial + 1, spatial + 2):
        return f"shape (batch, {channels}, {_SPATIAL[spatial - 1]})"
    axis = 1 if spatial is None or x.dim() == spatial + 2 else 0
    if x.dim() > axis and x.shape[axis] == channels:
        return None
    return f"{channels} channels on axis {axis}"


def _last(x: Tensor, features: int) -> str | None:
    return None if x.dim() and x.shape[-1] == features else f"a last axis of {features}"


def _channels(module: nn.Module) -> tuple[int | None, int | None]:
    """Number of channels of a layer, and how many spatial axes its input has (None: any)."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.in_channels, len(module.kernel_size)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.num_features, None
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, None
    return None, None
