"""Which parameters train together: input, hidden, output, embedding, and vectors (biases, gains)."""

from __future__ import annotations

from leadline.program import Program, tied_parameters
from leadline.tune.init_places import Places, parameter_of
from leadline.tune.recipe import Group

__all__ = ["DECOUPLED", "OPTIMIZERS", "ROLES", "parameter_groups", "parameter_roles", "vector_decay"]

ROLES = ("embedding", "input", "hidden", "output", "vector")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "lion", "lamb", "muon")
DECOUPLED = ("adamw", "lion", "lamb", "muon")  # optimizers whose weight decay is usually not meant for vectors
_ADDING = ("add", "sub", "cat")
_MULTIPLYING = ("mm", "addmm", "bmm", "matmul", "linear", "mul", "einsum", "convolution", "conv2d", "conv1d")


def parameter_roles(program: Program, places: Places) -> dict[str, str]:
    """The role that each parameter has in the Program.

    Args:
        program: of the network.
        places: of its steps.

    Returns:
        "input", "hidden", "output", "embedding" or "vector" by qualified name, in the order of the module; a tied
        parameter stands under its first name, once.
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
    return {n: roles.get(n) or _unplaced(program, n, p.dim()) for n, p in program.model.named_parameters()}


def _unplaced(program: Program, name: str, axes: int) -> str:
    """Role of a parameter that no layer holds whole: a matrix that is cut up first is hidden, a table that is added no matrix."""
    if axes != 2:
        return "vector"
    nodes = [program.nodes[p] for p, n in program.exported.parameters.items() if n == name and p in program.nodes]
    seen: set[str] = set()
    while nodes:
        node = nodes.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        for user in node.users:
            kind = str(user.target).split(".")[1] if str(user.target).startswith("aten.") else ""
            if kind in _ADDING:
                return "vector"
            if kind not in _MULTIPLYING:
                nodes.append(user)
    return "hidden"


def parameter_groups(program: Program, places: Places, optimizer: str | None) -> tuple[Group, ...]:
    """Group every parameter by the role that it has in the Program.

    Args:
        program: of the network.
        places: of its steps.
        optimizer: name; for those with decoupled weight decay, vectors get none.

    Returns:
        Groups that have members; a tied parameter stands under its first name, once.
    """
    members: dict[str, list[str]] = {role: [] for role in ROLES}
    for name, role in parameter_roles(program, places).items():
        members[role].append(name)
    decay = vector_decay(optimizer)
    return tuple(
        Group(role, tuple(names), weight_decay=decay if role == "vector" else None)
        for role, names in members.items()
        if names
    )


def vector_decay(optimizer: str | None) -> float | None:
    """Weight decay of vectors under an optimizer: none where it is decoupled, else the optimizer's own."""
    return 0.0 if optimizer in DECOUPLED else None
