"""Draw the pictures of the README and the documentation from real checks: `python docs/pictures.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rich.console import Console

import leadline as ll

ROOT = Path(__file__).parent.parent
IMAGES = Path(__file__).parent / "images"


def example(name: str):
    """Network and batch of one of the examples."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build()


def main() -> None:
    """The screen of a check as SVG, its profile as PNG."""
    IMAGES.mkdir(exist_ok=True)
    model, batch = example("deep_tanh")
    report = ll.check(model, batch, draws=16, target="examples/deep_tanh.py:build")
    console = Console(record=True, width=118, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(report)
    console.save_svg(str(IMAGES / "check.svg"), title="leadline check examples/deep_tanh.py:build")
    report.plot().savefig(IMAGES / "profile.png", dpi=110)
    found = ll.flow("tanh", depth=20, width=64, C_W=1.0, C_b=0.0, networks=4000)
    found.plot().savefig(IMAGES / "flow.png", dpi=90)
    ll.phase_diagram("tanh").plot().savefig(IMAGES / "phase_diagram.png", dpi=90)


if __name__ == "__main__":
    main()
