"""Measurements of a network on a fixed batch, each of which leaves it as it is."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from leadline.check.probe import flat_entries
from leadline.measure.curvature import Objective
from leadline.program.errors import UserError

__all__ = ["OwnLoss", "kernel_change", "layer_values", "layers_of", "tangent_kernel", "undisturbed"]

_KEPT = 4096  # entries of a layer's values that stand for all
_GRADIENT_BYTES = 1_000_000_000  # of gradients kept at a time
_F = torch.nn.functional
_NONLINEAR: set[Any] = {
    torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, Tensor.tanh, Tensor.tanh_, Tensor.sigmoid, Tensor.sigmoid_,
    torch.tanh, torch.tanh_, torch.sigmoid, torch.sigmoid_, _F.relu, _F.relu6, _F.leaky_relu, _F.elu, _F.selu, _F.celu, _F.gelu,
    _F.silu, _F.mish, _F.softplus, _F.hardswish, _F.hardtanh, _F.hardsigmoid, _F.softsign, _F.logsigmoid, _F.tanh,
    _F.sigmoid,
}  # fmt: skip


class OwnLoss(Objective):
    """The loss that a module computes itself from the labels of its batch, as models of transformers do."""

    def value(self, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss at some weights.

        Args:
            weights: by name; None: the module's own.

        Returns:
            A scalar tensor.

        Raises:
            UserError: the module returned no loss.
        """
        returned = self.returned(weights)
        loss = returned.get("loss") if isinstance(returned, Mapping) else getattr(returned, "loss", None)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UserError("the model returned no 'loss' of its own: give loss=… and targets=….")
        return loss.reshape(())


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Full precision, gradients on, and compiled parts run as they were written, whose derivatives have derivatives.

    Args:
        model: whose device counts.

    Yields:
        Nothing.
    """
    devices = {p.device.type for p in model.parameters()}
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for kind in devices:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import would take a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def tangent_kernel(objective: Objective, samples: int) -> Tensor:
    r"""Tangent kernel of one random projection of the outputs on the first samples of the batch.

    .. math:: K_{ab} = \nabla_\theta (u\cdot f(x_a))\cdot\nabla_\theta (u\cdot f(x_b))

    u is drawn once from the objective's seed and of unit length in the mean. Fewer samples, at least two, are taken where
    their gradients would not fit in a gigabyte.

    Args:
        objective: gives the module, its weights and the batch.
        samples: the most samples.

    Returns:
        Shape (m, m).
    """
    count = int(objective.targets.shape[0]) if objective.targets.dim() else 1
    fits = _GRADIENT_BYTES // max(1, 4 * objective.size)
    m = max(1, min(samples, count, max(2, fits)))
    part = objective.part(slice(0, m)) if m < count else objective
    leaves = part.leaves()
    output = part.output(leaves)
    rows = output if output.dim() and output.shape[0] == m else output[None]
    generator = torch.Generator().manual_seed(objective.seed)
    u = torch.randn(rows.shape[1:], generator=generator, dtype=torch.float64).to(rows)
    values = (rows * u / math.sqrt(max(u.numel(), 1))).reshape(len(rows), -1).sum(1)
    gradients = []
    with part.fixed():
        for value in values:
            slopes = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
            gradients.append(part.flatten(slopes))
    kernel = values.new_empty(len(gradients), len(gradients), dtype=torch.float64, device="cpu")
    for a, one in enumerate(gradients):
        for b, two in enumerate(gradients[: a + 1]):
            kernel[a, b] = kernel[b, a] = float(one @ two)
    return kernel


def kernel_change(now: Tensor, start: Tensor) -> tuple[float, float]:
    r"""How far a kernel has moved.

    .. math:: \frac{|K - K_0|}{|K_0|}, \qquad 1 - \frac{\langle K, K_0\rangle}{|K||K_0|}

    Args:
        now: K, shape (m, m).
        start: K_0, of that shape.

    Returns:
        The change and the turn; the second does not see a change of size. NaN where a kernel vanishes.
    """
    size, other = float(start.norm()), float(now.norm())
    if not size > 0:
        return math.nan, math.nan
    cosine = float((now * start).sum()) / (size * other) if other > 0 else math.nan
    return float((now - start).norm()) / size, 1 - min(cosine, 1.0) if cosine == cosine else math.nan


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that hold a matrix of their own, by name.

    Args:
        model: an unwrapped module.

    Returns:
        Linear layers, convolutions, embeddings and the like, in order.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if any(p is not None and p.dim() >= 2 for p in module._parameters.values())
    }


def layer_values(objective: Objective) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Some entries of what each layer gives out on the batch, and each layer's share of dead units.

    A unit is dead where the nonlinearity after the layer is flat at every sample and site of the batch. Nonlinearities
    are torch's own functions and modules without weights that act entry by entry.

    Args:
        objective: gives the module and the batch.

    Returns:
        Values by layer, always the same entries; shares by layer.
    """
    watch = _Watch(objective.seed)
    model = objective.model
    hooks = [module.register_forward_hook(watch.weighted(name)) for name, module in layers_of(model).items()]
    with objective.fixed():
        pointwise = [m for m in model.modules() if _pointwise(m)]
    for module in pointwise:
        hooks += [module.register_forward_pre_hook(watch.enter), module.register_forward_hook(watch.leave)]
    try:
        with torch.no_grad(), watch:
            objective.returned()
    finally:
        for hook in hooks:
            hook.remove()
    return watch.values, watch.dead


class _Watch(TorchFunctionMode):
    """Looks at what layers give out and at what enters the nonlinearities after them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}
        self.dead: dict[str, float] = {}
        self._seed, self._axis, self._inside = seed, -1, 0
        self._last: str | None = None

    def weighted(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            value = next((t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)), None)
            if value is None or not value.is_floating_point() or value.numel() == 0:
                return
            self._last, self._axis = name, 1 if isinstance(module, nn.modules.conv._ConvNd) else -1
            if name not in self.values:
                self.values[name] = _some(value.detach(), self._seed)

        return hook

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Before a pointwise module: it is looked at as one function."""
        self._inside += 1
        if self._inside == 1 and inputs and isinstance(inputs[0], Tensor):
            self._look(module.forward, inputs[0])

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """After it."""
        self._inside -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._inside and func in _NONLINEAR and args and isinstance(args[0], Tensor):
            rest, settings = args[1:], {k: v for k, v in kwargs.items() if k != "inplace"}
            self._look(lambda z: func(z, *rest, **settings), args[0])
        return func(*args, **kwargs)

    def _look(self, fn: Callable[[Tensor], Tensor], z: Tensor) -> None:
        if self._last is None or self._last in self.dead or not z.is_floating_point() or z.dim() == 0:
            return
        with torch._C.DisableTorchFunction():
            flat = flat_entries(lambda t: fn(t.clone()), z)  # a copy: some functions write into what they are given
        channels = flat.movedim(1 if z.dim() == 2 else self._axis, 0).flatten(1)
        self.dead[self._last] = float(channels.all(1).double().mean())


def _some(value: Tensor, seed: int) -> Tensor:
    flat = value.reshape(-1)
    if flat.numel() > _KEPT:
        generator = torch.Generator().manual_seed(seed)
        flat = flat[torch.randint(flat.numel(), (_KEPT,), generator=generator).to(flat.device)]
    return flat.clone()


def _pointwise(module: nn.Module) -> bool:
    """Whether a module without weights and parts acts entry by entry and is not the identity, tried on a few numbers."""
    if next(module.children(), None) is not None or module._parameters or module._buffers:
        return False
    z = torch.linspace(-3.0, 3.0, 36)
    try:
        with torch.no_grad():
            one, two = (module.forward(z.clone().reshape(s)) for s in ((36, 1, 1), (1, 4, 9)))
    except Exception:  # a module of another kind may raise anything
        return False
    if not (isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape == (36, 1, 1) and two.shape == (1, 4, 9)):
        return False
    same = torch.equal(one.reshape(-1), two.reshape(-1))
    return same and not torch.equal(one.reshape(-1), z)
