"""Two evaluations of the same questions side by side: differences with intervals, and a table."""

from typing import Any

from rich.table import Table

from nanoscout.evaluation.evaluate import Evaluation, Outcome
from nanoscout.evaluation.statistics import paired_difference


def compare(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """{"greedy": {"points": p, "ci95": [low, high], "n": n, "by_hops": {"1": {...}, ...}}, ...}"""
    result = {}
    for mode in before.outcomes:
        pairs = _pairs(before.outcomes[mode], after.outcomes[mode])
        hops = sorted({first.hops for first, _ in pairs})
        result[mode] = {
            **_difference(pairs),
            "by_hops": {
                str(count): _difference([pair for pair in pairs if pair[0].hops == count])
                for count in hops
            },
        }
    return result


def evaluation_table(evaluation: Evaluation) -> Table:
    """Rows: way of sampling; columns: right answers by hop count and over all, calls, answered."""
    summary = evaluation.summary()
    hops = sorted({h for result in summary.values() for h in result["by_hops"]})
    table = Table()
    table.add_column("sampling")
    for column in (
        *(f"{h} hop{'s' if h != '1' else ''}" for h in hops),
        "all",
        "calls",
        "answered",
    ):
        table.add_column(column, justify="right")
    for mode, result in summary.items():
        shares = [result["by_hops"][h] for h in hops] + [result]
        table.add_row(
            mode,
            *(f"{100 * share['correct']:.1f}% of {share['n']}" for share in shares),
            f"{result['calls']:.1f}",
            f"{100 * result['answered']:.0f}%",
        )
    return table


def comparison_table(before: Evaluation, after: Evaluation) -> Table:
    """Rows: way of sampling and hop count; columns: before, after, difference with interval."""
    table = Table(title="Right answers on held-out questions")
    for column in ("sampling", "hops", "questions", "before", "after", "difference (95% CI)"):
        table.add_column(column, justify="left" if column == "sampling" else "right")
    differences = compare(before, after)
    first, second = before.summary(), after.summary()
    for mode, difference in differences.items():
        for hops, part in [*difference["by_hops"].items(), ("all", difference)]:
            old = first[mode]["by_hops"][hops] if hops != "all" else first[mode]
            new = second[mode]["by_hops"][hops] if hops != "all" else second[mode]
            low, high = part["ci95"]
            table.add_row(
                mode,
                hops,
                str(part["n"]),
                f"{100 * old['correct']:.1f}%",
                f"{100 * new['correct']:.1f}%",
                f"{part['points']:+.1f} ({low:+.1f} to {high:+.1f})",
                end_section=hops == "all",
                style="bold" if hops == "all" else None,
            )
    return table


def _pairs(before: list[Outcome], after: list[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Outcomes of the questions that both evaluations have."""
    later = {outcome.question_id: outcome for outcome in after}
    return [(o, later[o.question_id]) for o in before if o.question_id in later]


def _difference(pairs: list[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    points, interval = paired_difference(
        [first.correct for first, _ in pairs], [second.correct for _, second in pairs]
    )
    return {"points": points, "ci95": list(interval), "n": len(pairs)}
