"""Which parameters train together: input, hidden, output, embedding, and vectors (biases, gains)."""

from __future__ import annotations

from leadline.program import Program, tied_parameters
from leadline.tune.init_places import Places, parameter_of
from leadline.tune.recipe import Group

__all__ = ["parameter_groups"]

_ORDER = ("embedding", "input", "hidden", "output", "vector")
_DECOUPLED = ("adamw", "lion", "lamb", "muon")  # optimizers whose weight decay is usually not meant for vectors


def parameter_groups(program: Program, places: Places, optimizer: str | None) -> tuple[Group, ...]:
    """Group every parameter by the role that it has in the Program.

    Args:
        program: of the network.
        places: of its steps.
        optimizer: name; for those with decoupled weight decay, vectors get none.

    Returns:
        Groups that have members; a tied parameter stands under its first name, once.
    """
    first = tied_parameters(program.model)
    roles: dict[str, str] = {}
    for step in places.weighted:
        name = first.get(parameter_of(step, program) or "")
        if name is None:
            continue
        if step.op == "embedding":
            roles[name] = "embedding"
        elif not places.following(step) or step.name == places.output:
            roles.setdefault(name, "output")
        else:
            roles.setdefault(name, "input" if places.feeding(step) is None else "hidden")
    members: dict[str, list[str]] = {role: [] for role in _ORDER}
    for name, parameter in program.model.named_parameters():
        # a matrix that no layer of the Program holds whole (queries, keys and values in one) is a hidden one
        members[roles.get(name, "hidden" if parameter.dim() == 2 else "vector")].append(name)
    decay = 0.0 if optimizer in _DECOUPLED else None
    return tuple(
        Group(role, tuple(names), weight_decay=decay if role == "vector" else None)
        for role, names in members.items()
        if names
    )
