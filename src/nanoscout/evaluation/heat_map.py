"""The picture of a probe: how often a fact was found, by the context's length and its depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

MISSING = "#dddddd"


def draw_heat_map(cells: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw cells of {length, depth, right, n} to a PNG file; a pair that is missing stays grey."""
    lengths = sorted({cell["length"] for cell in cells})
    depths = sorted({cell["depth"] for cell in cells})
    shares = {(c["length"], c["depth"]): c["right"] / c["n"] for c in cells}
    counts = {(c["length"], c["depth"]): f"{c['right']}/{c['n']}" for c in cells}
    grid = [[shares.get((length, depth), float("nan")) for length in lengths] for depth in depths]
    size = (3.2 + 0.95 * len(lengths), 2.2 + 0.62 * len(depths))
    figure, axis = pyplot.subplots(figsize=size, constrained_layout=True)
    colours = pyplot.get_cmap("viridis").with_extremes(bad=MISSING)
    image = axis.imshow(grid, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for row, depth in enumerate(depths):
        for column, length in enumerate(lengths):
            share = shares.get((length, depth))
            if share is not None:
                colour = "black" if share > 0.6 else "white"
                axis.text(
                    column, row, counts[length, depth], ha="center", va="center", color=colour
                )
    for edge in range(1, len(lengths)):
        axis.axvline(edge - 0.5, color="white", linewidth=2)
    for edge in range(1, len(depths)):
        axis.axhline(edge - 0.5, color="white", linewidth=2)
    axis.set_xticks(range(len(lengths)), [_short(length) for length in lengths])
    axis.set_yticks(range(len(depths)), [f"{depth:g}%" for depth in depths])
    axis.set_xlabel("tokens of the conversation")
    axis.set_ylabel("where the fact stands\n(0%: in the first result)")
    axis.set_title(title, fontsize=10, wrap=True)
    figure.colorbar(image, ax=axis, label="found (share)")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _short(length: int) -> str:
    return f"{length // 1024}K" if length % 1024 == 0 else f"{length:,}"
