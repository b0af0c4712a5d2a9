"""Rounds of one benchmark, of ours and of its peers, and what is said of them.

In a round everyone does the same work in turn; a ratio is a round's, a peer's seconds over ours.
results/NAME.json holds every round besides medians and spread, so that a long benchmark can be
run in parts: with `add` the rounds that are there stay, and with `first` a process goes on with a
round that others have begun.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers import FOLDER
from results import RESULTS, machine

from nanoscout.recipe import ModelSpec

OURS = "ours"
KEYS = {"ours", "peers", "ratios", "spread", "machine", "missing", "about", "rounds"}


def comparison_options(about: str, rounds: int, who: Sequence[str]) -> argparse.ArgumentParser:
    """What every comparison can be told; `about` is the script's docstring."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--model", default=ModelSpec().source)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--who", nargs="+", choices=who, default=who)
    parser.add_argument("--add", action="store_true", help="keep the rounds that are there")
    parser.add_argument("--first", type=int, help="with --add: number of the first round")
    parser.add_argument("--peers", type=Path, default=FOLDER)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they are kept")
    return parser


class Comparison:
    def __init__(self, name: str, folder: Path, *, add: bool, first: int | None = None):
        self.path = folder / f"{name}.json"
        kept = json.loads(self.path.read_text()) if add and self.path.exists() else {}
        self.rounds: list[dict[str, Any]] = kept.get("rounds", [])
        self._about: dict[str, dict[str, Any]] = kept.get("about", {})
        self._missing: dict[str, str] = kept.get("missing", {})
        self._more = {key: kept[key] for key in kept if key not in KEYS}
        last = max((entry["round"] for entry in self.rounds), default=-1)
        self._first = last + 1 if first is None else first

    def about(self, who: str, **facts: Any) -> None:
        """Versions and settings of one of those compared."""
        self._about[who] = facts

    def missing(self, who: str, reason: str) -> None:
        """Someone who took no part, and why."""
        if all(entry["who"] != who for entry in self.rounds):
            self._missing[who] = reason
        print(f"{who}: missing: {reason}", flush=True)

    def add(self, number: int, who: str, case: str, seconds: float, **figures: float) -> None:
        """One piece of work done. `number`: this process's round; `case`: which work."""
        self._missing.pop(who, None)
        entry = {"round": self._first + number, "who": who, "case": case, "seconds": seconds}
        self.rounds.append(entry | figures)
        shown = "".join(f", {key} {value:,.2f}" for key, value in figures.items())
        print(f"round {entry['round']}, {case}, {who}: {seconds:.1f} s{shown}", flush=True)

    def ratios(self) -> dict[str, list[float]]:
        """By "PEER, CASE": how many times longer than ours the peer took, a figure a round."""
        ours = {(e["round"], e["case"]): e["seconds"] for e in self.rounds if e["who"] == OURS}
        found: dict[str, list[float]] = {}
        for entry in self.rounds:
            key = (entry["round"], entry["case"])
            if entry["who"] != OURS and key in ours:
                name = f"{entry['who']}, {entry['case']}"
                found.setdefault(name, []).append(entry["seconds"] / ours[key])
        return found

    def save(self, **more: Any) -> None:
        """Write the file, and print its table. `more`: what else it says; tables are added to."""
        ratios = self.ratios()
        self._more |= {
            key: self._more.get(key, {}) | value if isinstance(value, dict) else value
            for key, value in more.items()
        }
        peers = dict.fromkeys(e["who"] for e in self.rounds if e["who"] != OURS)
        everything = {
            "ours": self._figures(OURS) | {"about": self._about.get(OURS, {})},
            "peers": {who: self._figures(who) | self._about.get(who, {}) for who in peers}
            | {who: {"missing": reason} for who, reason in self._missing.items()},
            "ratios": {name: statistics.median(values) for name, values in ratios.items()},
            "spread": {name: [min(values), max(values)] for name, values in ratios.items()},
            "machine": machine(),
            **self._more,
            "missing": self._missing,
            "about": self._about,
            "rounds": self.rounds,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(everything, indent=1) + "\n")
        partial.replace(self.path)
        self._print(ratios)

    def _figures(self, who: str) -> dict[str, Any]:
        """By case: the median of each figure, the least and the most seconds, how many rounds."""
        found = {}
        for case in dict.fromkeys(e["case"] for e in self.rounds if e["who"] == who):
            entries = [e for e in self.rounds if (e["who"], e["case"]) == (who, case)]
            names = [name for name in entries[-1] if name not in ("round", "who", "case")]
            seconds = [entry["seconds"] for entry in entries]
            found[case] = {
                name: statistics.median(e[name] for e in entries if name in e) for name in names
            } | {"seconds_low": min(seconds), "seconds_high": max(seconds), "rounds": len(entries)}
        return found

    def _print(self, ratios: dict[str, Sequence[float]]) -> None:
        width = 56
        print(f"\n{'':{width}}{'seconds':>9}{'low':>8}{'high':>8}{'rounds':>8}{'over ours':>22}")
        for case in dict.fromkeys(entry["case"] for entry in self.rounds):
            for who in dict.fromkeys([OURS, *(e["who"] for e in self.rounds if e["case"] == case)]):
                figures = self._figures(who).get(case)
                if figures is None:
                    continue
                times = ratios.get(f"{who}, {case}", [])
                over = (
                    f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
                    if times
                    else ""
                )
                print(
                    f"{f'{case}: {who}':{width}}{figures['seconds']:9.1f}"
                    f"{figures['seconds_low']:8.1f}{figures['seconds_high']:8.1f}"
                    f"{figures['rounds']:8}{over:>22}"
                )
        for who, reason in self._missing.items():
            print(f"{who}: missing: {reason}")
