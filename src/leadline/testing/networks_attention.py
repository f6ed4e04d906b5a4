"""A transformer of plain torch modules, with the choices that the cases turn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["Transformer"]


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool, scale: float | None) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.causal, self.scale = heads, causal, scale

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (f(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        h = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        return self.o(h.transpose(1, 2).reshape(batch, tokens, width))


class _Block(nn.Module):
    def __init__(
        self,
        width: int,
        heads: int,
        norm: Callable[[int], nn.Module],
        place: str,
        causal: bool,
        scale: float | None,
        skip: bool,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attention = _Attention(width, heads, causal, scale)
        self.up, self.act, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.place, self.skip = place, skip

    def feed(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        if not self.skip:
            return self.feed(self.norm2(self.attention(self.norm1(x))))
        if self.place == "post":
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.feed(x))
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Transformer(nn.Module):
    """Token and position embedding, blocks of attention and a GELU layer, last norm, read-out.

    Args:
        vocabulary: number of token ids, and of logits unless ``n_out`` is given.
        width: of the stream.
        depth: number of blocks.
        heads: of each attention.
        tokens: longest sequence.
        place: of the norms: "pre" or "post" the addition.
        norm: from a width to a module.
        causal: tokens see only those before them.
        scale: of the attention logits; None: the inverse root of the head's width.
        skip: additions around attention and the dense layers.
        positions: add an embedding of the position.
        n_out: units of the read-out.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        depth: int,
        heads: int,
        tokens: int,
        *,
        place: str = "pre",
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        causal: bool = True,
        scale: float | None = None,
        skip: bool = True,
        positions: bool = True,
        n_out: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(tokens, width) if positions else None
        self.blocks = nn.Sequential(*(_Block(width, heads, norm, place, causal, scale, skip) for _ in range(depth)))
        self.norm = norm(width) if place == "pre" else nn.Identity()
        self.head = nn.Linear(width, n_out or vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of every token, shape (batch, tokens, vocabulary)."""
        h = self.embed(ids)
        if self.position is not None:
            h = h + self.position(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(h)))
