"""The small network of ``--base``: a width, a file's network, or a model type."""

from __future__ import annotations

from torch import nn

from leadline.cli.prepare import prepare

__all__ = ["load_base"]


def load_base(
    base: str | None, *, config: str, device: str, seq: int | None, batch_size: int, image_size: int | None, seed: int,
    mode: bool | None,
) -> nn.Module | int | None:  # fmt: skip
    """Read what ``--base`` names.

    Args:
        base: a width, FILE.py:NAME, transformers:TYPE, or None.
        config: its settings, ``name=literal, …``.
        device: where it goes.
        seq: tokens an input, for model types.
        batch_size: inputs that are drawn, for model types.
        image_size: pixels a side, for model types.
        seed: of what is drawn.
        mode: True for train, False for eval, None for the mode it is built in.

    Returns:
        The network or the width; None where there is none.
    """
    if base is None:
        return None
    if base.lstrip("-").isdigit():
        return int(base)
    loaded = prepare(
        base, config=config, device=device, seq=seq, batch_size=batch_size, image_size=image_size, seed=seed,
        checkpoint=None, batch=None, targets=None, mode=mode,
    )  # fmt: skip
    return loaded.model
