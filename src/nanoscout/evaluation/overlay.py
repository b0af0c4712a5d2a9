"""The picture of two runs: the same curves over each other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from nanoscout.evaluation.curves import lines

Record = dict[str, Any]

PANELS: dict[str, Callable[[Record], float | None]] = {
    "Right answers while training (share)": lambda r: r["correct"],
    "Reward (weighted sum)": lambda r: r["reward"],
    "Calls in a conversation": lambda r: r["calls"],
    "Conversations with a malformed turn (share)": lambda r: r["malformed"],
    "Entropy (nats a token)": lambda r: (r["learner"] or {}).get("entropy"),
    "Groups dropped as uninformative (share)": lambda r: (
        r["groups"]["dropped"] / r["groups"]["fresh"]
    ),
}


def draw_overlay(runs: Mapping[str, Sequence[Record]], path: Path, title: str) -> None:
    """Draw the records of each run's metrics.jsonl, by the run's name, to a PNG file."""
    figure, axes = pyplot.subplots(2, 3, figsize=(14, 7), constrained_layout=True)
    figure.suptitle(title)
    for axis, (panel, value) in zip(axes.flat, PANELS.items(), strict=True):
        for name, records in runs.items():
            told = [record for record in records if "correct" in record]
            lines(axis, told, panel, {name: [value(record) for record in told]})
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
