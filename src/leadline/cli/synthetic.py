"""Example inputs drawn for a model of the transformers library."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from leadline.program.errors import UserError, one_line, plain

__all__ = ["draw_inputs"]

_USUAL_TOKENS = 64
_USUAL_PIXELS = 224
# Frames of speech out of the feature encoder, where the seq of a text model has no meaning.
_USUAL_FRAMES = 50
# Token ids that stand for a picture or a sound, which must then be there.
_PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "audio_token_id")


def draw_inputs(
    model: nn.Module,
    model_type: str,
    *,
    seq: int | None,
    batch_size: int,
    image_size: int | None,
    seed: int,
) -> dict[str, Any]:
    """Draw inputs of the right kind, size and type for a model.

    Token ids are uniform over the vocabulary without the padding token, pixels and spectrograms and waves are
    standard normal, and a decoder gets ids of its own.

    Args:
        model: a model of the transformers library.
        model_type: its type, for messages.
        seq: tokens an input, or frames of speech; None: 64 (50 frames), or the most the model allows.
        batch_size: number of inputs.
        image_size: pixels a side where the configuration does not say.
        seed: seed of the draws.

    Returns:
        Keyword arguments of the model's forward.

    Raises:
        UserError: sizes below one or beyond what the model allows, or a kind of input that is not known here.
    """
    for name, value in (("batch_size", batch_size), ("seq", seq), ("image_size", image_size)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}, expected at least 1: give a positive number.")
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    takes = set(inspect.signature(model.forward).parameters)
    main = str(getattr(model, "main_input_name", "input_ids"))
    if main not in takes:
        main = next((n for n in ("input_ids", "pixel_values", "input_features", "input_values") if n in takes), main)
    names = [main]
    two_towers = {"text_config", "vision_config"} <= set(getattr(config, "sub_configs", {}))
    if two_towers and {"input_ids", "pixel_values"} <= takes and not _is_generator(model):
        names = ["input_ids", "pixel_values"]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        names.append("decoder_input_ids")
    try:
        return {n: _draw(n, model, config, seq, batch_size, image_size, generator) for n in names}
    except UserError:
        raise
    except Exception as error:  # a configuration of a shape not thought of
        raise UserError(
            f"no inputs could be drawn for '{model_type}' ({one_line(error, 100)}): build it in a file of "
            "your own whose function returns (model, batch)."
        ) from error


def _is_generator(model: nn.Module) -> bool:
    """Whether the model writes text: pictures stand among its tokens then, and text alone will do."""
    inner = getattr(model, "model", model)
    return any(hasattr(m, part) for m in (model, inner) for part in ("lm_head", "language_model"))


def _draw(
    name: str,
    model: nn.Module,
    config: Any,
    seq: int | None,
    batch: int,
    image_size: int | None,
    generator: torch.Generator,
) -> Tensor:
    if name in ("input_ids", "decoder_input_ids"):
        return _ids(config, name, seq, batch, generator)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    shape: tuple[int, ...]
    if name == "pixel_values":
        shape = (batch, *_picture(config, image_size))
    elif name == "input_features" and hasattr(config, "max_source_positions"):
        shape = (batch, config.num_mel_bins, 2 * config.max_source_positions)
    elif name == "input_values" and hasattr(config, "conv_kernel"):
        shape = (batch, _samples(config, seq or _USUAL_FRAMES))
    elif name == "input_values" and hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        shape = (batch, config.max_length, config.num_mel_bins)
    else:
        raise UserError(
            f"'{plain(type(model).__name__)}' takes '{plain(name)}', expected token ids, pixels or speech: "
            "build it in a file of your own whose function returns (model, batch)."
        )
    return torch.randn(shape, generator=generator).to(dtype)


def _ids(config: Any, name: str, seq: int | None, batch: int, generator: torch.Generator) -> Tensor:
    text = config.get_text_config(decoder=name.startswith("decoder"))
    text = text if hasattr(text, "vocab_size") else config.text_config
    most = _positions(text)
    if seq is not None and most is not None and seq > most:
        raise UserError(
            f"seq is {seq}, expected at most the {most} positions of the model: shorten it, or raise "
            "max_position_embeddings with --config."
        )
    length = seq or min(_USUAL_TOKENS, most or _USUAL_TOKENS)
    reserved = [getattr(text, "pad_token_id", None)]
    reserved += [getattr(config, n, None) for n in _PLACEHOLDERS]
    allowed = torch.ones(int(text.vocab_size), dtype=torch.bool)
    allowed[[i for i in reserved if isinstance(i, int) and 0 <= i < len(allowed)]] = False
    vocabulary = allowed.nonzero().flatten()
    if len(vocabulary) == 0:
        raise UserError(f"vocab_size is {text.vocab_size}, expected a token besides padding: raise it with --config.")
    return vocabulary[torch.randint(len(vocabulary), (batch, length), generator=generator)]


def _positions(text: Any) -> int | None:
    """Longest input, where the type has a table of positions."""
    found = getattr(text, "max_position_embeddings", None)
    if not isinstance(found, int) or found < 1:
        return None
    # RoBERTa and its kin number positions from the padding index on, which only the size of the table shows.
    if getattr(text, "model_type", "") in _POSITIONS_AFTER_PADDING and isinstance(text.pad_token_id, int):
        return found - text.pad_token_id - 1
    return found


_POSITIONS_AFTER_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


def _picture(config: Any, image_size: int | None) -> tuple[int, int, int]:
    vision = getattr(config, "vision_config", None) or config
    channels = int(getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3)
    said = getattr(vision, "image_size", None)
    if said is None:
        said = image_size or _USUAL_PIXELS
    elif image_size is not None and image_size != said:
        raise UserError(
            f"image_size is {image_size}, expected the {said} of the model's configuration: give --config "
            f"image_size={image_size} instead."
        )
    height, width = said if isinstance(said, (tuple, list)) else (said, said)
    return channels, int(height), int(width)


def _samples(config: Any, frames: int) -> int:
    """Samples of a wave that the convolutions of a speech encoder turn into so many frames."""
    length = frames
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        length = (length - 1) * stride + kernel
    return int(length)
