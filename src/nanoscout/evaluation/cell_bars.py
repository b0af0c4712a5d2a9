"""The picture of an evaluation: a bar for each cell, with its interval."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = ("#1f77b4", "#9aa5b1", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b")
"""A model's, in turn."""


def draw_cells(cells: Sequence[dict[str, Any]], title: str) -> bytes:
    """A PNG of the cells of results.json that have a share. Names are drawn as they are."""
    shown = [cell for cell in cells if "correct" in cell]
    models = list(dict.fromkeys(cell["model"] for cell in shown))
    figure, axis = pyplot.subplots(figsize=(8, 1.4 + 0.42 * len(shown)), constrained_layout=True)
    for place, cell in enumerate(shown):
        share, (low, high) = 100 * cell["correct"], (100 * end for end in cell["ci95"])
        axis.barh(
            place,
            share,
            xerr=[[max(0.0, share - low)], [max(0.0, high - share)]],
            color=COLOURS[models.index(cell["model"]) % len(COLOURS)],
            ecolor="#333333",
            capsize=3,
            height=0.7,
        )
        axis.text(high + 1, place, f"{share:.1f}", va="center", fontsize=9)
    axis.set_yticks(range(len(shown)), [_name(cell) for cell in shown], fontsize=9)
    axis.set_xlim(0, 108)
    axis.set_xlabel("right answers (%), with 95% intervals")
    axis.set_title(title, fontsize=10)
    axis.grid(axis="x", alpha=0.2)
    axis.invert_yaxis()
    for text in (axis.title, *axis.get_yticklabels()):
        text.set_parse_math(False)  # a name may hold dollar signs
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file.getvalue()


def _name(cell: dict[str, Any]) -> str:
    name = f"{cell['model']}, {cell['agent']}{', thinking' if cell['thinking'] else ''}"
    return name if len(name) <= 60 else f"{name[:60]}…"
