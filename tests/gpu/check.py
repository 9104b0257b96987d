"""Checks what crowddist computes on a GPU, and how fast: python tests/gpu/check.py --output gpu.json

Needs torch, torchvision, NumPy, SciPy and OpenCV; no Ray, MLflow or WebDataset. At most 6 minutes on one GPU. Prints
one JSON with an entry a part, and ends with 0 if no part failed, else with 1. A part that fails is an entry with its
error; the others go on. docs/clusters.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import correctness  # noqa: E402
import loading  # noqa: E402
import speed  # noqa: E402
import torch  # noqa: E402
from reporting import Bench, Part, guarded  # noqa: E402

import crowddist  # noqa: E402

PARTS: dict[str, tuple[Callable[[Bench, Part], None], float]] = {
    "machine": (speed.machine, 20),
    "agreement": (correctness.agreement, 70),
    "bfloat16": (correctness.bfloat16, 25),
    "feed": (correctness.feed, 15),
    "group": (correctness.group, 25),
    "resume": (correctness.resume, 30),
    "cuda_graph": (correctness.cuda_graph, 30),
    "training": (speed.training, 70),
    "labelling": (speed.labelling, 40),
    "loading": (loading.loading, 30),
    "optimizer": (speed.optimizer, 20),
    "layout": (speed.layout, 20),
    "compiled": (correctness.compiled, 110),
}
"""Name -> a part and the most seconds that it may take on a GPU; what matters most comes first."""
LIMIT_S = {"cuda": 345.0, "cpu": 3600.0}
"""Of all parts together. A CPU may be busy with something else."""
NO_TIME_S = 5.0
"""A part does not begin with less than this left."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts; see the file's own text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: the GPU")
    parser.add_argument("--tiny", action="store_true", help="small networks and few repeats, to check the check itself")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), metavar="PART",
                        help=f"run these alone: {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file, anew after every part")
    parser.add_argument("--seconds", type=float, help=f"of all parts together ({LIMIT_S['cuda']:.0f} on a GPU)")
    parser.add_argument("--disturb", type=float, default=0.0, metavar="SHARE",
                        help="change the weights on the device by this share, to see that the check fails then")
    options = parser.parse_args(argv)
    if options.device != "cpu" and not torch.cuda.is_available():
        print("error: torch sees no GPU here; on a CPU give --device cpu --tiny", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.device == "cpu" else "cuda:0")
    bench = Bench(device=device, tiny=options.tiny, disturb=options.disturb)
    whole_s = LIMIT_S[device.type] if options.seconds is None else options.seconds
    began = time.perf_counter()
    parts: dict[str, Any] = {}
    for name in (name for name in PARTS if name in options.only):
        work, limit_s = PARTS[name]
        left_s = whole_s - (time.perf_counter() - began)
        if left_s < NO_TIME_S:
            parts[name] = Part().entry("skipped", 0.0, "no time left")
        else:
            parts[name] = guarded(lambda part, work=work: work(bench, part),
                                  min(limit_s, left_s) if bench.on_gpu else left_s)
        if bench.on_gpu:
            torch.cuda.empty_cache()
        entry = parts[name]
        print(f"{name}: {entry['status']}, {entry['seconds']} s {entry.get('error', '')}", file=sys.stderr, flush=True)
        result = {"crowddist": crowddist.__version__, "device": str(device), "tiny": options.tiny,
                  "passed": all(entry["status"] != "failed" for entry in parts.values()),
                  "seconds": round(time.perf_counter() - began, 1), "parts": parts}
        if options.output is not None:
            options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
