"""From a `torch.nn.Module` to a Program: typed steps, axes, and the law of every parameter.

:func:`trace` is the way in. A :class:`Program` is a sequence of :class:`Step` objects; a step knows its operator, its
submodule, the axes of its value (sample, site, channel) and what feeds it.
"""

from __future__ import annotations

from leadline.program.axes import Axis, Layout
from leadline.program.batches import by_name
from leadline.program.errors import UserError
from leadline.program.export import Exported, ExportFailure
from leadline.program.inputs import batch_from, validate
from leadline.program.laws import Law, read_law, tied_parameters
from leadline.program.step import Program, Ref, Step
from leadline.program.trace import trace

__all__ = [
    "Axis",
    "ExportFailure",
    "Exported",
    "Law",
    "Layout",
    "Program",
    "Ref",
    "Step",
    "UserError",
    "batch_from",
    "by_name",
    "read_law",
    "tied_parameters",
    "trace",
    "validate",
]
