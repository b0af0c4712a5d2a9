"""Draw what rollouts.py, learner.py, step.py and growth.py kept.

python benchmarks/draw.py [--results benchmarks/results] [--out docs]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from comparison import OURS
from matplotlib import pyplot
from matplotlib.axes import Axes
from results import RESULTS

OURS_COLOUR, PEER_COLOUR = "#1f77b4", "#9aa5b1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=RESULTS.parents[1] / "docs")
    options = parser.parse_args()
    kept = {
        name: json.loads((options.results / f"{name}.json").read_text())
        for name in ("rollouts", "learner", "step", "growth")
        if (options.results / f"{name}.json").exists()
    }
    compared = [name for name in ("rollouts", "learner", "step") if name in kept]
    if compared:
        draw_comparisons({name: kept[name] for name in compared}, options.out / "speed.png")
    if "growth" in kept:
        draw_growth(kept["growth"]["ours"], options.out / "growth.png")


def draw_comparisons(kept: dict[str, Any], path: Path) -> None:
    """A panel for each kind of work: tokens a second where tokens are the work, else seconds."""
    panels = [
        (case, figures, "tokens_per_second" if name == "rollouts" else "seconds")
        for name, figures in kept.items()
        for case in figures["ours"]
        if case != "about"
    ]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 2.6), constrained_layout=True, squeeze=False
    )
    for axis, (case, figures, unit) in zip(axes[0], panels, strict=True):
        sides = {OURS: figures["ours"]} | figures["peers"]
        values = {who: side[case][unit] for who, side in sides.items() if case in side}
        _bars(axis, values, f"{case}\n{unit.replace('_', ' ')}")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _bars(axis: Axes, values: dict[str, float], title: str) -> None:
    names = list(values)[::-1]
    colours = [OURS_COLOUR if name == OURS else PEER_COLOUR for name in names]
    bars = axis.barh(names, [values[name] for name in names], color=colours)
    axis.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
    axis.margins(x=0.15)
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def draw_growth(ours: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """Seconds above, peak memory below; a column for each thing that grows."""
    drawn = {axis: parts for axis, parts in ours.items() if any(parts.values())}
    figure, axes = pyplot.subplots(
        2, len(drawn), figsize=(3.6 * len(drawn), 4.6), constrained_layout=True, squeeze=False
    )
    for column, (name, parts) in enumerate(drawn.items()):
        for row, key in enumerate(("seconds", "peak_mb")):
            axis = axes[row][column]
            for part, points in parts.items():
                ordered = sorted(points, key=lambda point: point["value"])
                values = [point["value"] for point in ordered]
                axis.plot(values, [point[key] for point in ordered], marker="o", label=part)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log", base=2)
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=8)
        axes[0][column].set_title(name, fontsize=10)
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel("peak memory, MB")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
