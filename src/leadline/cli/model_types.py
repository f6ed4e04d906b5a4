"""A model of the transformers library, built from its configuration alone."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leadline.cli.synthetic import draw_inputs
from leadline.cli.type_config import configuration, reason
from leadline.program.errors import UserError, near, one_line, plain
from leadline.program.trial import preserved_rng

__all__ = ["build_type"]

# The class that trains a type from scratch, best first: the mapping that lists types, and the class.
_CLASSES = (
    ("SEQ_TO_SEQ_CAUSAL_LM", "AutoModelForSeq2SeqLM"),
    ("SPEECH_SEQ_2_SEQ", "AutoModelForSpeechSeq2Seq"),
    ("MASKED_LM", "AutoModelForMaskedLM"),
    ("CAUSAL_LM", "AutoModelForCausalLM"),
    ("ZERO_SHOT_IMAGE_CLASSIFICATION", "AutoModelForZeroShotImageClassification"),
    ("IMAGE_CLASSIFICATION", "AutoModelForImageClassification"),
    ("CTC", "AutoModelForCTC"),
    ("AUDIO_CLASSIFICATION", "AutoModelForAudioClassification"),
)


def build_type(
    model_type: str,
    config: Mapping[str, Any],
    *,
    seq: int | None,
    batch_size: int,
    image_size: int | None,
    seed: int,
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model type in eval mode with random weights, and draw inputs for it; nothing is downloaded.

    Attention is ``sdpa`` where the type has it and caches are off, unless the settings say otherwise.

    Args:
        model_type: for example ``"gpt2"``.
        config: settings of its configuration class.
        seq: tokens an input; None: 64, or the most the type allows.
        batch_size: number of inputs.
        image_size: pixels a side where the configuration does not say.
        seed: seed of weights and inputs; the random states are put back after.

    Returns:
        The model and the keyword arguments to call it with.

    Raises:
        UserError: no such type or setting, values that the type refuses, or no inputs known for it.
    """
    _check_type(model_type)
    auto = _library()
    known = auto.configuration_auto.CONFIG_MAPPING_NAMES
    if model_type not in known:
        raise UserError(
            f"transformers has no model type '{plain(model_type)}', expected one of its {len(known)}: "
            f"{near(model_type, known)}."
        )
    with preserved_rng(), _offline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = auto.configuration_auto.CONFIG_MAPPING[model_type]
        settings, attention = configuration(kind, model_type, config)
        model = _build(auto, model_type, settings, attention, seed)
        model.eval()
        inputs = draw_inputs(model, model_type, seq=seq, batch_size=batch_size, image_size=image_size, seed=seed)
    return model, inputs


def _check_type(model_type: str) -> None:
    shown = plain(model_type)
    how = "name a model type such as transformers:gpt2, or build the model in a file of your own"
    if "://" in model_type:
        raise UserError(f"'transformers:{shown}' is a URL, expected a model type, as nothing is downloaded: {how}.")
    if "/" in model_type or "\\" in model_type or model_type.startswith((".", "~")):
        raise UserError(
            f"'transformers:{shown}' is a hub id or a path, expected a model type, as nothing is downloaded: {how}."
        )
    if not re.fullmatch(r"[\w.-]+", model_type):
        raise UserError(f"'transformers:{shown}' is no name of a model type: {how}.")


def _library() -> Any:
    try:
        from transformers.models import auto
        from transformers.models.auto import configuration_auto, modeling_auto  # noqa: F401
    except ImportError as error:
        raise UserError(
            "transformers:TYPE needs the transformers library, which cannot be imported "
            f"({one_line(error, 80)}): install it with pip install 'leadline[transformers]'."
        ) from error
    return auto


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub's library from reaching out, and its notes off the screen."""
    from huggingface_hub import constants
    from transformers.utils import logging

    before, verbosity = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    constants.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.set_verbosity(verbosity)


def _build(auto: Any, model_type: str, settings: Any, attention: str | None, seed: int) -> nn.Module:
    chosen = getattr(auto.modeling_auto, _class_for(auto, model_type, settings))
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        _check_memory(chosen, settings, model_type)
        torch.manual_seed(seed)
        built: nn.Module = chosen.from_config(settings, **options)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"'{model_type}' needs a library that cannot be imported ({one_line(error, 120)}): install it."
        ) from error
    except (Exception, SystemExit) as error:  # each model checks in its own way, some need more libraries
        raise UserError(
            f"transformers could not build '{model_type}' from this config ({reason(error)}): change these values."
        ) from error
    return built


def _class_for(auto: Any, model_type: str, settings: Any) -> str:
    two_sided = bool(getattr(settings, "is_encoder_decoder", False))
    order = list(_CLASSES)
    if getattr(settings, "is_decoder", False) and not two_sided:
        order.sort(key=lambda pair: pair[0] != "CAUSAL_LM")
    for mapping, name in order:
        if "SEQ" in mapping and not two_sided:
            continue
        if model_type in getattr(auto.modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES", ()):
            return name
    if model_type not in auto.modeling_auto.MODEL_MAPPING_NAMES:
        raise UserError(
            f"'{model_type}' is a part of a model with no class of its own in transformers, expected the "
            "type of a whole model: name that one, or build the part in a file of your own."
        )
    return "AutoModel"


def _free_memory() -> int:
    """Bytes that programs can still have, the cache of files among them; off Linux, all there are."""
    table = Path("/proc/meminfo")
    if table.exists():
        return 1024 * int(re.findall(r"MemAvailable:\s+(\d+)", table.read_text())[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _check_memory(chosen: Any, settings: Any, model_type: str) -> None:
    """Refuse a model whose weights alone do not fit, before the system ends the process for it."""
    try:
        free = _free_memory()
        with torch.device("meta"):
            shapes = chosen.from_config(copy.deepcopy(settings))
        needed = sum(p.numel() * p.element_size() for p in shapes.parameters())
    except Exception:  # no such figures on this system, or a model that cannot be built without values
        return
    if needed > free:
        raise UserError(
            f"'{model_type}' with this config has {needed / 2**30:.1f} GiB of weights, expected at most the "
            f"{free / 2**30:.1f} GiB that are free: make it smaller with --config, for example by fewer "
            "layers."
        )
