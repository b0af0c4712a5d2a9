"""The picture of a run: correctness, reward, tool use and entropy over the steps."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

BEFORE, AFTER = "#9aa5b1", "#1f77b4"


def draw_curves(
    records: Sequence[dict[str, Any]],
    before: dict[str, Any],
    after: dict[str, Any],
    path: Path,
    title: str,
) -> None:
    """Draw metrics.jsonl's `records` and the evaluations' summaries to a PNG file."""
    figure, axes = pyplot.subplots(2, 3, figsize=(14, 7), constrained_layout=True)
    figure.suptitle(title)
    records = [record for record in records if "correct" in record]
    hops = sorted({h for record in records for h in record["correct_by_hops"]})
    by_hops = {
        f"{h} hop{'s' if h != '1' else ''}": [r["correct_by_hops"].get(h) for r in records]
        for h in hops
    }
    parts = sorted({name for record in records for name in record["rewards"]})
    lines(axes[0, 0], records, "Right answers while training (share)", by_hops)
    lines(
        axes[0, 1],
        records,
        "Rewards (mean, before weighting)",
        {name: [r["rewards"].get(name) for r in records] for name in parts},
    )
    _bars(axes[0, 2], before, after)
    lines(
        axes[1, 0],
        records,
        "Tool use",
        {
            "calls a conversation": [r["calls"] for r in records],
            "share that called": [r["tool_use"] for r in records],
            "share with a malformed turn": [r["malformed"] for r in records],
        },
    )
    learner = [record["learner"] or {} for record in records]
    lines(
        axes[1, 1],
        records,
        "Entropy (nats a token)",
        {"entropy": [entry.get("entropy") for entry in learner]},
    )
    lines(
        axes[1, 2],
        records,
        "Groups dropped as uninformative (share)",
        {"dropped": [r["groups"]["dropped"] / r["groups"]["fresh"] for r in records]},
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def lines(
    axis: Axes, records: Sequence[dict[str, Any]], title: str, series: dict[str, list[Any]]
) -> None:
    """One line a series, smoothed over five steps within a stage, the raw values behind it."""
    axis.set_title(title, fontsize=10)
    for name, values in series.items():
        points = [
            (r["step"], v, r["stage"])
            for r, v in zip(records, values, strict=True)
            if v is not None
        ]
        if not points:
            continue
        steps = [point[0] for point in points]
        raw = [point[1] for point in points]
        (line,) = axis.plot(steps, raw, alpha=0.25, linewidth=1)
        smooth = [
            _mean([v for _, v, s in points[max(0, i - 2) : i + 3] if s == points[i][2]])
            for i in range(len(points))
        ]
        axis.plot(steps, smooth, color=line.get_color(), linewidth=2, label=name)
    for previous, record in itertools.pairwise(records):
        if record["stage"] != previous["stage"]:
            axis.axvline(record["step"] - 0.5, color="grey", linestyle=":", linewidth=1)
    axis.set_xlabel("step")
    axis.grid(alpha=0.2)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)


def _bars(axis: Axes, before: dict[str, Any], after: dict[str, Any]) -> None:
    axis.set_title("Held-out questions answered right (%)", fontsize=10)
    for index, mode in enumerate(before):
        for offset, summary, colour in ((-0.2, before, BEFORE), (0.2, after, AFTER)):
            value = 100 * summary[mode]["correct"]
            axis.bar(index + offset, value, width=0.38, color=colour)
            axis.text(index + offset, value + 1, f"{value:.0f}", ha="center", fontsize=9)
    axis.set_xticks(range(len(before)), list(before))
    axis.set_ylim(0, 105)
    axis.legend(
        [pyplot.Rectangle((0, 0), 1, 1, color=c) for c in (BEFORE, AFTER)],
        ["before", "after"],
        fontsize=8,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
