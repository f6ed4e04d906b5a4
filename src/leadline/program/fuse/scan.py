"""A recurrence over tokens that decays by ``exp(a x)`` (Mamba): one step, which is drawn as a whole.

The exponential of a random rate times a random time step has no moments once either is taken as Gaussian.
"""

from __future__ import annotations

from torch import Tensor, fx

from leadline.program.fuse.base import GraphView, Group, is_op, pattern
from leadline.program.fuse.routed import innermost, is_random

__all__: list[str] = []

_FAR = 12  # steps between a product with a learned rate and the exponential


@pattern(order=-9)
def scan(view: GraphView, node: fx.Node) -> Group | None:
    """Match all that a module's own forward does with such an exponential, up to the one value that leaves it."""
    if not is_op(node, "exp") or not is_random(node, view) or not _decays(view, node):
        return None
    path = innermost(node)
    own = [n for n in view.nodes if is_random(n, view) and innermost(n) == path and n not in view.taken]
    members = {node}
    for n in own:  # what follows
        if any(a in members for a in n.all_input_nodes):
            members.add(n)
    for n in reversed(own):  # what serves only that
        users = view.users(n)
        if n is not view.output and users and all(u in members for u in users):
            members.add(n)
    # one of several values of a node that is not a member keeps its own step
    members = {n for n in members if not is_op(n, "getitem") or n.args[0] in members}
    exits = [n for n in own if n in members and (n is view.output or any(u not in members for u in view.users(n)))]
    if len(exits) != 1 or not isinstance(exits[0].meta["val"], Tensor):
        return None
    inputs = dict.fromkeys(a for n in own if n in members for a in n.all_input_nodes if a not in members)
    data = [a for a in inputs if a not in view.fixed and a not in view.weights]
    return Group("scan", exits[0], tuple(n for n in own if n in members), {"inputs": data}) if data else None


def _decays(view: GraphView, node: fx.Node) -> bool:
    """Whether a learned vector is multiplied into what an exponential is taken of."""
    path, frontier = innermost(node), [node]
    for _ in range(_FAR):
        frontier = [a for n in frontier for a in n.all_input_nodes if is_random(a, view) and innermost(a) == path]
        for n in frontier:
            learned = [a for a in n.all_input_nodes if a in view.weights and a.meta["val"].numel() > 1]
            if is_op(n, "mul") and learned:
                return True
    return False
