"""Every model type of the transformers library that builds small: what has a rule, how long it takes, what goes wrong.

python benchmarks/model_types.py                  all types, a line each
python benchmarks/model_types.py gpt2 swin        some of them
python benchmarks/model_types.py --out found.jsonl   keep the results, and go on where a run was stopped

Each type runs in a process of its own, with a limit of time. A traceback is a bug; a type whose inputs are not known, or
that does not build from small settings, is not.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from coverage import SHAPE
from rich.console import Console
from rich.table import Table
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from leadline.check import check
from leadline.cli.load import load_target
from leadline.program import ExportFailure, UserError, trace
from leadline.theory import predict

SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "d_embed", "embedding_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers", "depth"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner"), 128),
    "head_dim": 16,
    "rotary_dim": 8,
    "d_kv": 16,
    "vocab_size": 256,
    "image_size": 32,
    "patch_size": 8,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
}
LARGEST = 10**8  # parameters
# what is left out, little by little, until a type builds
TRIES: tuple[tuple[str, ...], ...] = (
    (),
    ("head_dim", "d_kv", "num_key_value_heads", "num_kv_heads"),
    ("head_dim", "d_kv", "num_key_value_heads", "num_kv_heads", "image_size", "patch_size", "num_heads", "depth"),
    ("hidden_size", "num_attention_heads", "image_size", "patch_size", "num_heads", "depth", "head_dim", "d_kv"),
)


def settings(model_type: str, left_out: tuple[str, ...]) -> dict[str, Any]:
    """Small settings of a type, for its parts too."""
    kind = CONFIG_MAPPING[model_type]
    return _small(kind(), left_out)


def _small(config: Any, left_out: tuple[str, ...]) -> dict[str, Any]:
    known = {**config.to_dict(), **{n: getattr(config, n, None) for n in config.attribute_map}}
    found = {
        n: v
        for n, v in SMALL.items()
        if n in known and n not in left_out and type(known[n]) is int and n not in config.attribute_map.values()
    }
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "attribute_map"):
            found[name] = _small(part, left_out)
    return found


def examine(model_type: str, whole: bool) -> dict[str, Any]:
    """Figures of one type; ``whole``: measured as well."""
    row: dict[str, Any] = {"type": model_type, "stage": "build"}
    loaded, first = None, ""
    for left_out in TRIES:
        try:
            loaded = load_target(f"transformers:{model_type}", config=settings(model_type, left_out), seq=8)
            if sum(p.numel() for p in loaded.model.parameters()) > LARGEST:
                raise ValueError("it stays large")
            with torch.no_grad():
                loaded.model(**loaded.kwargs)
            break
        except Exception as error:  # what a library's own modelling code says of settings that do not go together
            loaded, first = None, first or f"{type(error).__name__}: {error}"
    if loaded is None:
        return {**row, "outcome": "not built", "why": first}
    row["parameters"] = sum(p.numel() for p in loaded.model.parameters())
    try:
        start = time.perf_counter()
        row["stage"] = "trace"
        program = trace(loaded.model, kwargs=loaded.kwargs)
        row["trace"] = time.perf_counter() - start
        row["steps"] = len(program.steps)
        row["stage"] = "predict"
        start = time.perf_counter()
        prediction = predict(program)
        row["predict"] = time.perf_counter() - start
        steps = [s for s in program.steps if s.op not in SHAPE]
        drawn = [s for s in steps if s.name in prediction.drawn]
        row["ruled"] = 1 - len(drawn) / max(len(steps), 1)
        row["drawn"] = Counter(f"{s.op}: {prediction.drawn[s.name]}" for s in drawn)
        values = [r.get("kernel") for r in prediction.rows]
        row["finite"] = all(v is None or math.isfinite(v) for v in values)
        if whole:
            row["stage"] = "check"
            start = time.perf_counter()
            check(loaded.model, kwargs=loaded.kwargs, draws=2)
            row["check"] = time.perf_counter() - start
    except (UserError, ExportFailure) as error:
        return {**row, "outcome": f"refused at {row['stage']}", "why": str(error)}
    except ValueError as error:
        said = traceback.extract_tb(error.__traceback__)[-1]
        return {**row, "outcome": f"{row['stage']}: {error}", "why": f"{Path(said.filename).name}:{said.lineno}"}
    except Exception as error:
        said = traceback.format_exc().splitlines()
        return {**row, "outcome": f"TRACEBACK at {row['stage']}: {type(error).__name__}", "why": "\n".join(said[-12:])}
    return {**row, "outcome": "done"}


def _child(model_type: str, whole: bool, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the library's own notes
    pipe.send(examine(model_type, whole))


def isolated(model_type: str, seconds: float, whole: bool = False) -> dict[str, Any]:
    """The same in a process of its own; what does not end is ended."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(model_type, whole, there))
    start = time.perf_counter()
    process.start()
    there.close()
    try:
        found = here.recv() if here.poll(seconds) else {"type": model_type, "outcome": f"not done in {seconds:.0f} s"}
    except EOFError:
        found = {"type": model_type, "outcome": "the process ended"}
    if process.is_alive():
        process.kill()
    process.join()
    return {**found, "seconds": time.perf_counter() - start}


def main() -> int:
    """Print a row a type; the exit status is 1 where one ended with a traceback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of one type")
    parser.add_argument("--check", action="store_true", help="measure as well, on two re-drawn networks")
    parser.add_argument("--out", type=Path, help="file of results, a line each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if options.out and options.out.exists():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    known = {row["type"] for row in rows}
    for model_type in options.types or list(CONFIG_MAPPING_NAMES):
        if model_type in known:
            continue
        rows.append(isolated(model_type, options.seconds, options.check))
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    Console(width=160).print(table(rows))
    return int(any("TRACEBACK" in row["outcome"] for row in rows))


def table(rows: list[dict[str, Any]]) -> Table:
    """A line a type."""
    out = Table("type", "steps", "ruled", "trace s", "predict s", "outcome", "Monte Carlo")
    for row in rows:
        if row["outcome"] == "not built":
            continue
        figures = [f"{row[k]:.1f}" if k in row else "-" for k in ("trace", "predict")]
        drawn = ", ".join(f"{n}x {what}" for what, n in row.get("drawn", {}).items())
        out.add_row(
            row["type"],
            str(row.get("steps", "-")),
            f"{row['ruled']:.0%}" if "ruled" in row else "-",
            *figures,
            row["outcome"][:60],
            drawn[:80],
        )
    return out


if __name__ == "__main__":
    sys.exit(main())
