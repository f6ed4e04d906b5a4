"""How long the first screen of the README's example takes, in forward and backward passes of the same batch.

python benchmarks/first_screen.py                                      GPT-2 small, 2 x 128 tokens
python benchmarks/first_screen.py transformers:bert --seq 64           any target of `leadline check`

The first screen is the prediction; it stands while the network is measured, and the complete report takes its place.
The limit is the import of torch plus 15 passes. Both sides are processor seconds of one thread in a fresh process, from
the start of the interpreter, so that they hold beside other work.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

LIMIT, REPEATS = 15.0, 4


def child(target: str, seq: int) -> None:
    """One command: to the first screen, to the end, then some passes of its batch; the figures as JSON."""
    found = {"start": time.process_time()}
    import torch

    found["torch"] = time.process_time()

    from rich.console import Console

    import leadline
    from leadline.cli.load import load_target

    loaded = load_target(target, seq=seq)
    found["build"] = time.process_time()

    def preview(report: leadline.Report) -> None:
        Console(file=io.StringIO(), width=110).print(report.screen())
        found["first screen"] = time.process_time()

    report = leadline.check(loaded.model, args=loaded.args, kwargs=loaded.kwargs, target=loaded.name, preview=preview)
    Console(file=io.StringIO(), width=110).print(report.screen())
    found["end"] = time.process_time()
    units = []
    for _ in range(REPEATS):
        start = time.process_time()
        output = loaded.model(*loaded.args, **loaded.kwargs)
        value = output if isinstance(output, torch.Tensor) else output[0]
        value.square().mean().backward()
        units.append(time.process_time() - start)
        loaded.model.zero_grad()
    found["unit"] = statistics.median(units[1:])
    sys.stdout.write(json.dumps(found) + "\n")


def main() -> int:
    """Print what was measured; exit code 1 where the limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", default="transformers:gpt2")
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.target, options.seq)
        return 0
    command = [sys.executable, __file__, options.target, "--seq", str(options.seq), "--child"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    unit, torch_import = found["unit"], found["torch"] - found["start"]
    limit = torch_import + LIMIT * unit
    print(f"{options.target}, {options.seq} tokens; one forward and backward pass: {unit:.2f} s")
    print(f"  import of torch      {found['torch']:6.1f} s")
    print(f"  model built          {found['build']:6.1f} s")
    print(f"  first screen         {found['first screen']:6.1f} s   limit {limit:.1f} s")
    print(f"  complete report      {found['end']:6.1f} s")
    passes = (found["first screen"] - torch_import) / unit
    print(f"The first screen takes the import of torch plus {passes:.1f} passes (limit {LIMIT:.0f}).")
    return int(found["first screen"] > limit)


if __name__ == "__main__":
    sys.exit(main())
