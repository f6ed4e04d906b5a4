"""What theory has of a flow: the tensors that exist for an activation, and powers of depth where it is critical."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leadline.flow.exponents import Power, fit_power
from leadline.flow.universality import expected_powers
from leadline.theory.flow import Layers, many_input_flow, single_input_flow
from leadline.theory.tangent import tangent_flow, tangent_matrices, tangent_tensors

__all__ = ["FIELDS", "FlowTensors", "tensors"]

FIELDS = ("K", "V", "G1", "Theta", "A", "B", "D", "F", "H1", "P", "Q", "R", "S", "T", "U")
_TANGENT = FIELDS[3:]
_SECOND = FIELDS[11:]


@dataclass(frozen=True)
class FlowTensors:
    """Tensors by name (None: not there for this activation); K and susceptibilities of the first input; powers, reasons."""

    gram: Tensor
    K: Tensor
    fields: Mapping[str, Any]
    chi_parallel: Tensor
    chi_perp: Tensor
    powers: tuple[Power, ...]
    reasons: tuple[str, ...]


def tensors(layers: Layers, gram: Tensor) -> FlowTensors:
    """Compute every tensor that exists.

    Args:
        layers: widths, activation, variances and learning rates.
        gram: x_a · x_b / n_0, shape (m, m), float64.

    Returns:
        The tensors; where some do not exist, a sentence says why.
    """
    reasons: list[str] = []
    fields: dict[str, Tensor | None] = dict.fromkeys(FIELDS)
    try:
        tangent = tangent_flow(layers, gram[0, 0])
        fields.update({name: getattr(tangent, name) for name in _TANGENT if name not in _SECOND})
        if tangent.second is not None:
            fields.update({name: getattr(tangent, name) for name in _SECOND})
        else:
            reasons.append(f"R, S, T, U do not exist for {layers.activation.name}, whose slope jumps.")
        kernels = tangent.kernels
    except ValueError as error:
        reasons.append(f"There is no tangent kernel here: {error}")
        kernels = single_input_flow(layers, gram[0, 0])
    fields.update(K=kernels.K, V=kernels.V, G1=kernels.G1)
    powers = _powers(layers, fields)
    if gram.shape[0] > 1:
        fields, reasons = _several(layers, gram, fields)
    return FlowTensors(gram, kernels.K, fields, kernels.chi_parallel, kernels.chi_perp, powers, tuple(reasons))


def _several(
    layers: Layers, gram: Tensor, one: Mapping[str, Tensor | None]
) -> tuple[dict[str, Tensor | None], list[str]]:
    """Tensors between inputs: all that there are of a continuous activation, else those of the kernel."""
    try:
        several = tangent_tensors(layers, gram)
    except ValueError as error:
        said = f"Of the tensors between inputs only K, V, G1 and Theta are here: {error}"
    else:
        between = {name: getattr(several, name) for name in FIELDS if name not in _SECOND}
        if several.second is not None:
            return between | several.second._asdict(), []
        name = layers.activation.name
        said = f"R, S, T, U between inputs are worked out for activations without kinks only, and {name} has one."
        return dict.fromkeys(FIELDS) | between, [said]
    try:
        kernels = many_input_flow(layers, gram)
    except ValueError as error:
        return dict(one), [f"Tensors between inputs are not here, those of the first input are: {error}"]
    kernel_only: dict[str, Tensor | None] = dict.fromkeys(one)
    kernel_only.update(K=kernels.K, V=kernels.vertex, G1=kernels.G1)
    if one["Theta"] is not None:
        values, vectors = torch.linalg.eigh(gram)
        inputs = vectors * (values.clamp_min(0) * gram.shape[0]).sqrt()  # of this Gram matrix, with n_0 = m
        kernel_only["Theta"] = tangent_matrices(layers, inputs)
    return kernel_only, [said]


def _powers(layers: Layers, fields: Mapping[str, Tensor | None]) -> tuple[Power, ...]:
    """Fits of what is dimensionless, and of K and Theta."""
    K, Theta = fields["K"], fields["Theta"]
    if K is None:
        return ()
    values: dict[str, Tensor | None] = {"K": K, "V/K^2": _ratio(fields["V"], K * K)}
    if Theta is not None:
        values["Theta"] = Theta
        for name, unit in (("A", Theta**2), ("B", Theta**2), ("D", Theta * K), ("F", Theta * K)):
            label = {"A": "A/Theta^2", "B": "B/Theta^2", "D": "D/(Theta K)", "F": "F/(Theta K)"}[name]
            values[label] = _ratio(fields[name], unit)
    expected = expected_powers(layers)
    return tuple(fit_power(name, v, expected.get(name)) for name, v in values.items() if v is not None)


def _ratio(value: Tensor | None, unit: Tensor) -> Tensor | None:
    return None if value is None else torch.where(unit != 0, value / unit, torch.nan)
