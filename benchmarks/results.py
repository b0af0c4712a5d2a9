"""Where benchmarks keep their figures, and on what machine they were taken."""

import json
import os
import platform
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"


def save(key: str, figures: dict[str, Any], name: str = "search") -> None:
    """Put `figures` under `key` into results/NAME.json, beside what other benchmarks keep."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    everything = json.loads(path.read_text()) if path.exists() else {}
    everything[key] = figures | {"machine": machine()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(everything, indent=2) + "\n")
    partial.replace(path)


def machine() -> str:
    """The processor and the number of cores that this process may use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), model)
    return f"{model}, {len(os.sched_getaffinity(0))} cores"
