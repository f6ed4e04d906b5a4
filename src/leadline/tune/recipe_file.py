"""Recipes as YAML files: plain data, a version of the layout, one sentence for what cannot be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from leadline.program.errors import UserError, one_line, plain
from leadline.tune.graph_places import Place
from leadline.tune.recipe import SCHEMA, Decision, Group, ParameterLaw, Recipe, Reshape
from leadline.tune.reshape_wrap import Wrap

__all__ = ["from_dict", "load", "save", "to_dict"]

_FORMAT = "leadline recipe"
_KINDS = ("gaussian", "orthogonal", "delta_orthogonal", "constant")
_FACTORS = ("lr_factor", "weight_decay_factor")
_LARGEST = 64 * 2**20  # bytes; a recipe of a thousand layers takes one


def _yaml() -> ModuleType:
    try:
        import yaml
    except ImportError:
        raise UserError(
            "recipes are YAML files and PyYAML is not installed, expected version 6 or later: pip install 'leadline[tune]'."
        ) from None
    return yaml


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data, in the order of the file.

    Args:
        recipe: any recipe.

    Returns:
        Numbers, strings, lists and dicts.
    """
    return {
        "format": _FORMAT,
        "schema": recipe.schema,
        "leadline": recipe.leadline,
        "target": recipe.target,
        "optimizer": recipe.optimizer,
        "seed": recipe.seed,
        "decisions": [{k: v for k, v in asdict(d).items() if v != ""} for d in recipe.decisions],
        "laws": {name: _law_to_dict(law) for name, law in recipe.laws.items()},
        **_reshaped_to_dict(recipe),
        "groups": [_group_to_dict(g) for g in recipe.groups],
        "summary": _plain(recipe.summary),
        "fingerprint": {name: list(shape) for name, shape in recipe.fingerprint.items()},
    }


def _group_to_dict(group: Group) -> dict[str, Any]:
    found = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(group).items() if v is not None}
    return {k: v for k, v in found.items() if not (k in _FACTORS and v == 1)}


def _reshaped_to_dict(recipe: Recipe) -> dict[str, Any]:
    """What reshaped activations add; a recipe without any has none of it."""
    found: dict[str, Any] = {}
    if recipe.scales:
        found["scales"] = dict(recipe.scales)
    if recipe.reshapes:
        found["reshapes"] = [{**asdict(r.place), "activation": r.activation, **asdict(r.wrap)} for r in recipe.reshapes]
    if recipe.graph_laws:
        found["graph_laws"] = {name: _law_to_dict(law) for name, law in recipe.graph_laws.items()}
    return found


def _law_to_dict(law: ParameterLaw) -> dict[str, Any]:
    if law.kind == "constant":
        return {"kind": law.kind, "value": law.mean, "fan_in": law.fan_in}
    found: dict[str, Any] = {"kind": law.kind, "std": law.std, "fan_in": law.fan_in, "C_W": law.C_W}
    return found if law.mean == 0 else {**found, "mean": law.mean}


def save(recipe: Recipe, path: str | Path) -> None:
    """See :meth:`Recipe.save`."""
    yaml = _yaml()
    text = yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the recipe cannot be written to '{plain(path)}' ({one_line(error)}): name another file."
        ) from error


def load(path: str | Path) -> Recipe:
    """See :meth:`Recipe.load`."""
    yaml = _yaml()
    where = f"'{plain(path)}'"
    try:
        if Path(path).stat().st_size > _LARGEST:
            raise UserError(f"{where} is larger than {_LARGEST >> 20} MiB, expected a recipe: name the file of one.")
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"the recipe {where} cannot be read ({one_line(error)}): check the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not a text file, expected a recipe as YAML: name the file of one.") from error
    try:
        _refuse_aliases(yaml, text)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{where} is not readable as YAML ({one_line(error)}): make the recipe again.") from error
    return from_dict(data, where)


def _refuse_aliases(yaml: ModuleType, text: str) -> None:
    """Aliases let a small file stand for a huge one, and no recipe has any."""
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError("it has aliases, which recipes do not")


def from_dict(data: Any, where: str = "the recipe") -> Recipe:
    """A recipe from plain data.

    Args:
        data: as :func:`to_dict` gives it.
        where: what a message calls it.

    Returns:
        The recipe.

    Raises:
        UserError: no recipe, of a newer layout, or damaged.
    """
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise UserError(
            f"{where} is not a recipe, expected 'format: {_FORMAT}' in it: name a file that tune has written."
        )
    schema = data.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise UserError(f"{where} has the schema {plain(repr(schema))}, expected a number: make the recipe again.")
    if schema > SCHEMA:
        raise UserError(
            f"{where} has schema {schema}, written by leadline {plain(data.get('leadline'))}, and this version reads up to "
            f"{SCHEMA}: update leadline."
        )
    try:
        return Recipe(
            target=_text(data["target"]),
            fingerprint={_text(n): tuple(_count(i) for i in s) for n, s in data["fingerprint"].items()},
            seed=_count(data["seed"]),
            laws={_text(n): _law(v) for n, v in data["laws"].items()},
            decisions=tuple(_decision(d) for d in data["decisions"]),
            groups=tuple(_group(g) for g in data["groups"]),
            optimizer=None if data.get("optimizer") is None else _text(data["optimizer"]),
            summary=data.get("summary") or {},
            leadline=_text(data.get("leadline", "")),
            scales={_text(n): _factor(v) for n, v in data.get("scales", {}).items()},
            reshapes=tuple(_reshape(r) for r in data.get("reshapes", ())),
            graph_laws={_text(n): _law(v) for n, v in data.get("graph_laws", {}).items()},
            schema=schema,
        )._consistent()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} is damaged ({one_line(error)}): make the recipe again.") from error


def _law(data: Mapping[str, Any]) -> ParameterLaw:
    kind = data["kind"]
    if kind not in _KINDS:
        raise ValueError(f"there is no law {plain(kind)!r}")
    if kind == "constant":
        return ParameterLaw(kind, 0.0, _number(data["value"]), _count(data["fan_in"]))
    std = _number(data["std"])
    if std < 0:
        raise ValueError(f"a law has std {std:g}")
    return ParameterLaw(kind, std, _number(data.get("mean", 0.0)), _count(data["fan_in"]))


def _reshape(data: Mapping[str, Any]) -> Reshape:
    place = Place(_text(data["module"]), _text(data["call"]), _count(data["index"]))
    wrap = Wrap(*(_number(data[n]) for n in ("a", "b", "gamma", "d", "skip")))
    if wrap.a == 0:
        raise ValueError("an activation's input has the scale 0")
    return Reshape(place, _text(data["activation"]), wrap)


def _factor(value: Any) -> float:
    if _number(value) <= 0:
        raise ValueError(f"{value} is no positive factor")
    return float(value)


def _decision(data: Mapping[str, Any]) -> Decision:
    names = ("what", "layer", "before", "after", "why", "source")
    return Decision(*(_text(data.get(n, "")) for n in names))


def _group(data: Mapping[str, Any]) -> Group:
    rate, decay = data.get("lr"), data.get("weight_decay")
    return Group(
        _text(data["name"]),
        tuple(_text(n) for n in data["parameters"]),
        None if rate is None else _number(rate),
        None if decay is None else _number(decay),
        *(_factor(data.get(n, 1.0)) for n in _FACTORS),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{plain(repr(value))} is no text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{plain(repr(value))} is no finite number")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{plain(repr(value))} is no count")
    return value


def _plain(value: Any) -> Any:
    """Data that YAML's and JSON's own types hold; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
