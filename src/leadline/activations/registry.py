"""Where activation files enter themselves: by module type, function, name, and as templates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from leadline.activations.base import Activation

__all__ = ["REGISTRY", "Registry", "register"]


@dataclass
class Registry:
    """Builders of activations; filled while the package is imported, read-only afterwards.

    Attributes:
        modules: type of a torch module -> builder from an instance of it.
        functions: function -> builder from the keyword arguments it is called with.
        names: lower-case name -> builder without arguments.
        templates: builders from a callable that may be that activation; each returns its candidate or None.
    """

    modules: dict[type[nn.Module], Callable[[Any], Activation]] = field(default_factory=dict)
    functions: dict[Callable[..., Any], Callable[..., Activation]] = field(default_factory=dict)
    names: dict[str, Callable[[], Activation]] = field(default_factory=dict)
    templates: list[Callable[[Callable[[Tensor], Tensor]], Activation | None]] = field(default_factory=list)


REGISTRY = Registry()


def register(
    names: Iterable[str],
    build: Callable[..., Activation],
    *,
    modules: dict[type[nn.Module], Callable[[Any], Activation]] | None = None,
    functions: Iterable[Callable[..., Any]] = (),
    template: Callable[[Callable[[Tensor], Tensor]], Activation | None] | bool = True,
) -> None:
    """Enter an activation (a family of them) in the registry.

    Args:
        names: names it is known by; each calls ``build`` with its defaults.
        build: takes the function's keyword arguments, in the function's order, and returns the activation.
        modules: module types, with the builder that reads an instance's parameters.
        functions: torch functions whose further arguments ``build`` understands.
        template: candidate for an anonymous callable; True: ``build()`` itself; False: never recognise it.
    """
    for name in names:
        REGISTRY.names[name] = build
    REGISTRY.modules.update(modules or {})
    for function in functions:
        REGISTRY.functions[function] = build
    if template is True:
        REGISTRY.templates.append(lambda _fn: build())
    elif template is not False:
        REGISTRY.templates.append(template)
