"""The cells of results.json as rows of text, for every table that shows them."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

NAMES = ("model", "agent", "thinking")
NOTHING = "-"
COST = ("searches", "visits", "tokens read", "tokens written", "seconds")


def columns(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Their hop counts have a column each, where there is more than one."""
    return [
        *NAMES,
        "right",
        "95% CI",
        *(_hops(h) for h in _hop_counts(cells)),
        *COST,
        "not answered",
    ]


def row(cell: dict[str, Any], cells: Sequence[dict[str, Any]]) -> list[str]:
    """One text for each of the columns of `cells`; costs are means an answer."""
    names, hops = name_of(cell), _hop_counts(cells)
    if "correct" not in cell:
        return names + [NOTHING] * (len(columns(cells)) - len(names))
    low, high = cell["ci95"]
    shares = [cell["by_hops"].get(h) for h in hops]
    unanswered = cell["n"] - cell["stops"].get("answered", 0)
    return [
        *names,
        share_text(cell),
        f"{100 * low:.1f} to {100 * high:.1f}",
        *map(share_text, shares),
        f"{cell['searches']:.1f}",
        f"{cell['visits']:.1f}",
        f"{cell['prompt_tokens']:,.0f}",
        f"{cell['completion_tokens']:,.0f}",
        f"{cell['seconds']:.1f}",
        f"{unanswered}" + _open(cell),
    ]


def cell_table(cells: Sequence[dict[str, Any]]) -> Group:
    """For the terminal: right answers, and below what they cost, so that 80 columns hold either."""
    names = columns(cells)
    rows = [dict(zip(names, row(cell, cells), strict=True)) for cell in cells]
    shown = [name for name in names if name not in (*NAMES, *COST)]
    return Group(_terminal_table(rows, shown), _terminal_table(rows, COST))


def _terminal_table(rows: Sequence[dict[str, str]], shown: Sequence[str]) -> Table:
    """The names that a row has in NAMES share a column."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(", ".join(NAMES), overflow="fold")
    for name in shown:
        table.add_column(name, justify="right")
    for texts in rows:
        who = ", ".join(texts[name] for name in NAMES)
        table.add_row(escape(who), *(escape(texts[name]) for name in shown))
    return table


def _open(cell: dict[str, Any]) -> str:
    """What is missing from the figures, if anything."""
    parts = [f"{cell[key]} {key}" for key in ("unasked", "ungraded") if cell[key]]
    return f" ({', '.join(parts)})" if parts else ""


def name_of(cell: dict[str, Any]) -> list[str]:
    """What stands under NAMES."""
    return [cell["model"], cell["agent"], "on" if cell["thinking"] else "off"]


def share_text(share: dict[str, Any] | None) -> str:
    return f"{100 * share['correct']:.1f}% of {share['n']}" if share else NOTHING


def _hop_counts(cells: Sequence[dict[str, Any]]) -> list[str]:
    counts = sorted({hops for cell in cells for hops in cell.get("by_hops", {})})
    return counts if len(counts) > 1 else []


def _hops(count: str) -> str:
    return f"{count} hop{'s' if count != '1' else ''}"
