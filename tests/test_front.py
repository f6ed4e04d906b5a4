"""The package's front: verbs and result types, under names that importing a room does not take away."""

from __future__ import annotations

import importlib
import inspect

import leadline as ll


def test_every_name_is_there() -> None:
    assert set(ll.__all__) >= {
        "trace", "predict", "measure", "compare", "check", "Activation", "activation", "UserError", "Program",
        "Prediction", "Measurement", "Comparison", "Report", "Verdict", "__version__",
    }  # fmt: skip
    assert all(hasattr(ll, name) for name in ll.__all__)


def test_importing_a_room_leaves_the_verb() -> None:
    for name in ("check", "measure"):
        room = importlib.import_module(f"leadline.{name}")
        setattr(ll, name, room)  # what an import of the room does
        assert inspect.isfunction(getattr(ll, name))
        assert inspect.ismodule(room)


def test_other_names_can_be_set() -> None:
    ll.scratch = 1  # type: ignore[attr-defined]
    assert ll.scratch == 1  # type: ignore[attr-defined]
    del ll.scratch  # type: ignore[attr-defined]
