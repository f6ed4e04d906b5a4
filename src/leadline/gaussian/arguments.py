"""Arguments of public functions, checked against their annotations: numbers that are numbers, tensors that are tensors."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Collection, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["check_size", "checked"]

P = ParamSpec("P")
R = TypeVar("R")

_NUMBERS = {"float", "int"}
_LISTS = {"Sequence[float]", "Sequence[int]"}


def checked(
    *, infinite: Collection[str] = (), negative: Collection[str] = (), nan: Collection[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator that refuses, in one sentence, what is no number, tensor or list of numbers where one is expected.

    Looked at are arguments annotated float, int, Tensor, Sequence[float], Sequence[int], or a union of these and None;
    nan is refused, infinity in numbers and lists, fractions where whole numbers are expected.

    Args:
        infinite: names of arguments that may be infinite.
        negative: names of those that must not be negative (tensors, numbers and lists alike).
        nan: names of those whose nan stands for a row that has no answer.
    Returns:
        The decorator; what it decorates raises ValueError.

    >>> @checked(negative=("C_W",))
    ... def half(C_W: float) -> float:
    ...     return C_W / 2
    >>> half(-1.0)
    Traceback (most recent call last):
    ValueError: got C_W=-1.0: give a number that is not negative.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        kinds = {name: _kinds(p.annotation) for name, p in signature.parameters.items()}
        kinds = {name: kind for name, kind in kinds.items() if kind}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if name in kinds:
                    _check(name, value, kinds[name], name in infinite, name in negative, name in nan)
            return function(*args, **kwargs)

        return call

    return decorate


def check_size(covariance: Tensor, functions: int) -> None:
    """Refuse a covariance that is not of as many variables as there are functions.

    Args:
        covariance: should have shape (..., m, m).
        functions: m.
    Raises:
        ValueError: it has not.
    """
    m = functions
    if covariance.ndim < 2 or tuple(covariance.shape[-2:]) != (m, m):
        raise ValueError(
            f"got a covariance of shape {tuple(covariance.shape)} for {m} functions: give one variable for each, "
            f"(..., {m}, {m})."
        )


def _kinds(annotation: Any) -> set[str]:
    """Parts of a union that are all known, or nothing."""
    parts = {part.strip() for part in str(annotation).split("|")}
    return parts if parts <= _NUMBERS | _LISTS | {"Tensor", "None"} else set()


def _check(name: str, value: Any, kinds: set[str], infinite: bool, positive: bool, nan: bool) -> None:
    if value is None and "None" in kinds:
        return
    whole = not kinds & {"float", "Sequence[float]"} and bool(kinds & {"int", "Sequence[int]"})
    if isinstance(value, Tensor) and ("Tensor" in kinds or (value.ndim == 0 and kinds & _NUMBERS)):
        if not nan and bool(torch.isnan(value).any()):
            raise ValueError(f"got {name} with nan in it: give finite numbers.")
        if positive and bool((value < 0).any()):
            raise ValueError(f"got {name} down to {float(value.min()):.6g}: give numbers that are not negative.")
    elif nan and _is_number(value) and math.isnan(value):
        return
    elif _is_number(value) and kinds & _NUMBERS:
        _check_number(name, value, value, "number", infinite, positive, whole)
    elif _is_list(value) and kinds & _LISTS:
        if all(_plain(one, infinite, positive, whole) for one in value):
            return
        shown = list(value)[:6]
        for one in value:
            _check_number(name, one, shown, "numbers", infinite, positive, whole)
    else:
        got = repr(value) if isinstance(value, str | None) else f"a {type(value).__name__}"
        raise ValueError(f"got {name}={got}: give {_wanted(kinds, whole)}.")


def _check_number(name: str, one: Any, shown: Any, noun: str, infinite: bool, positive: bool, whole: bool) -> None:
    if not _is_number(one):
        raise ValueError(f"got {name}={shown}: give {noun}.")
    verb, value = "is" if noun == "number" else "are", float(one)
    article = "a " if noun == "number" else ""
    if math.isnan(value) or (math.isinf(value) and not infinite):
        raise ValueError(f"got {name}={shown}: give {article}finite {noun}.")
    if whole and value != int(value):
        raise ValueError(f"got {name}={shown}: give {article}whole {noun}.")
    if positive and value < 0:
        raise ValueError(f"got {name}={shown}: give {article}{noun} that {verb} not negative.")


def _plain(one: Any, infinite: bool, positive: bool, whole: bool) -> bool:
    """Whether nothing need be said of a number, at the price that a list of 10,000 can pay."""
    if type(one) is float:
        return (one - one == 0 or (infinite and one == one)) and (not positive or one >= 0) and not whole
    return type(one) is int and (not positive or one >= 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.ndim == 0)


def _is_list(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 1
    return isinstance(value, Collection) and not isinstance(value, str | Mapping)


def _wanted(kinds: set[str], whole: bool) -> str:
    some = []
    if kinds & _NUMBERS:
        some.append("a whole number" if whole else "a number")
    if kinds & _LISTS:
        some.append("a list of whole numbers" if whole else "a list of numbers")
    if "Tensor" in kinds:
        some.append("a tensor")
    return " or ".join(some)
