"""From what a command line names to a network and a batch: what the verbs on networks share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from leadline.cli.batch import load_batch, load_checkpoint, load_targets
from leadline.cli.config import parse_config
from leadline.cli.load import Loaded, load_target, to_device
from leadline.program.inputs import device_from

__all__ = ["prepare"]


def prepare(
    target: str,
    *,
    config: str,
    device: str,
    seq: int | None,
    batch_size: int,
    image_size: int | None,
    seed: int,
    checkpoint: Path | None,
    batch: Path | None,
    targets: Path | None,
    mode: bool | None,
) -> Loaded:
    """Build the network, and put the weights, batch, targets and mode that were named in their places.

    Args:
        target: FILE.py:NAME or transformers:TYPE.
        config: settings, ``name=literal, …``.
        device: where network and batch go.
        seq: tokens an input, for model types.
        batch_size: inputs that are drawn, for model types.
        image_size: pixels a side, for model types.
        seed: of what is drawn.
        checkpoint: file of weights, or None.
        batch: file of inputs, or None.
        targets: file of targets, or None.
        mode: True for train, False for eval, None for the mode it is built in.

    Returns:
        What was loaded.
    """
    found = load_target(
        target, config=parse_config(config), device=device, seq=seq, batch_size=batch_size, image_size=image_size,
        seed=seed,
    )  # fmt: skip
    place = device_from(device)
    if checkpoint is not None:
        load_checkpoint(found.model, checkpoint)
    if batch is not None:
        args, kwargs = (to_device(part, place) for part in load_batch(batch))
        found = replace(found, args=args, kwargs=kwargs)
    if targets is not None:
        found = replace(found, targets=to_device(load_targets(targets), place))
    if mode is not None:
        found.model.train(mode)
    elif target.startswith("transformers:"):
        _fresh_norms(found.model)
    return found


def _fresh_norms(model: nn.Module) -> None:
    """Put batch norms of a freshly built model type in train mode, since in eval mode they have nothing to say yet."""
    from leadline.check.collect import untouched_norms

    for name in untouched_norms(model):
        model.get_submodule(name).train()
