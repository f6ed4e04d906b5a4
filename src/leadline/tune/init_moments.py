"""Second moments of a network under planned laws: one quick forward pass that lets each layer be planned in turn.

A plan has to know what a layer reads before the layer itself is settled. Layers, nonlinearities, norms, sums and products
have simple second moments; every other step keeps the gain that the full prediction of the network as it is found there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from leadline.activations import Activation, activation
from leadline.program import Program, Step
from leadline.theory import Prediction
from leadline.tune.init_places import NORMS, Places, data_input, parameter_of, passing

__all__ = ["Moments"]


class Moments:
    """Second moment of each step's value, filled in as layers are planned.

    Args:
        program: of the network.
        places: of its steps.
        base: prediction of the network as it is.
    """

    def __init__(self, program: Program, places: Places, base: Prediction) -> None:
        self.program, self.places = program, places
        self.base = {r.step: k for r in base.rows if (k := r.get("kernel")) is not None and math.isfinite(k)}
        self.values: dict[str, float] = {}
        self._activations: dict[str, Activation] = {}

    def run(self, plan: Callable[[Step, float], tuple[float, float]]) -> None:
        """Walk the steps in order.

        Args:
            plan: from a step with weights and the second moment of its input to what it multiplies that by (C_W, less what
                padding takes) and its C_b.
        """
        for step in self.places.steps.values():
            self.values[step.name] = self._weighted(step, plan) if step.weighted else self._other(step)

    def input(self, step: Step) -> float:
        """Second moment of what a step reads; of data, over its entries."""
        return self._of(data_input(step))

    def activation(self, step: Step) -> Activation:
        """The nonlinearity of a pointwise step."""
        if step.name not in self._activations:
            self._activations[step.name] = activation(step.fn)
        return self._activations[step.name]

    def _of(self, name: str | None) -> float:
        if name is None:
            return 1.0
        if name in self.values:
            return self.values[name]
        constant = self.program.constants.get(name)
        if isinstance(constant, torch.Tensor) and constant.is_floating_point() and constant.numel():
            return float(constant.double().square().mean())
        return 1.0

    def edge(self, step: Step) -> float:
        """Share of a layer's gain that padding leaves, from the prediction of the network as it is; 1 for dense layers."""
        if step.op == "linear" or step.op == "embedding":
            return 1.0
        weight, bias = _laws(step, self.program)
        before, after = self._base_input(step), self.base.get(step.name)
        if weight is None or not before or after is None or weight <= 0:
            return 1.0
        found = (after - bias) / (weight * before)
        return found if 0.05 < found < 20.0 else 1.0

    def _base_input(self, step: Step) -> float | None:
        source = self.places.feeding(step)
        if source is not None:
            return self.base.get(source.name)
        name = data_input(step)
        return None if name in self.places.steps else self._of(name)

    def _weighted(self, step: Step, plan: Callable[[Step, float], tuple[float, float]]) -> float:
        M = 1.0 if step.op == "embedding" else self.input(step)
        gain, C_b = plan(step, M)
        return C_b + gain * M

    def _other(self, step: Step) -> float:
        if passing(step):
            return self.input(step)
        if step.op in NORMS:
            return self.base.get(step.name, 1.0)
        random = [n for n in step.inputs if n in self.places.steps]
        if step.op == "pointwise" and step.fn is not None:
            K = torch.tensor(self.input(step), dtype=torch.float64)
            return float(self.activation(step).second_moment(K))
        if step.op in ("add", "sub") and len(random) == 2:
            return sum(self.values[n] for n in random)
        if step.op == "mul" and len(random) == 2 and random[0] != random[1]:
            return self.values[random[0]] * self.values[random[1]]
        if step.op in ("cat", "stack") and random:
            return sum(self.values[n] for n in random) / len(random)
        return self._kept_gain(step, random)

    def _kept_gain(self, step: Step, random: list[str]) -> float:
        """A step of another kind has the gain that it has in the network as it is."""
        after = self.base.get(step.name)
        # attention passes on the scale of its values, the last of its operands
        main = self.places.through(random[-1] if "attention" in step.op else random[0]) if random else None
        if main is None:
            return after if after is not None else 1.0
        before = self.base.get(main.name)
        gain = after / before if after is not None and before else 1.0
        return gain * self.values[main.name]


def _laws(step: Step, program: Program) -> tuple[float | None, float]:
    """C_W and C_b of a layer as it is."""
    weight, bias = parameter_of(step, program), parameter_of(step, program, "bias")
    laws: Mapping[str, object] = program.laws
    return (
        program.laws[weight].C_W if weight in laws else None,  # type: ignore[index]
        program.laws[bias].second_moment if bias in laws else 0.0,  # type: ignore[index]
    )
