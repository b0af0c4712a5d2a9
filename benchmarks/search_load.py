"""The search server under load: throughput, and what happens with four times more than it carries.

    python benchmarks/search_load.py [CORPUS]

CORPUS is what `nanoscout index build` takes (by default 10,000 generated pages). The clients share
the machine's cores with the server.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from load import Load, closed_loop, open_loop, post
from results import save
from serving import memory_mb, search_server

from nanoscout.questions.world import load_world
from nanoscout.recipe import QuestionsSpec, WorldSpec

BATCH = 32
CLIENTS = 32
ROUNDS = 5
SECONDS = 5.0
OVERLOAD, OVERLOAD_SECONDS = 4, 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="?", default="world:10000")
    corpus = parser.parse_args().corpus
    spec = QuestionsSpec(world=WorldSpec(pages=10_000), train=2_000)
    queries = [question.text for question in load_world(spec, 0).train]
    single = [post("/search", {"query": query}) for query in queries]
    starts = range(0, len(queries) - BATCH, BATCH)
    batches = [post("/search", {"queries": queries[at : at + BATCH]}) for at in starts]
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        build = [sys.executable, "-m", "nanoscout", "index", "build", corpus, "--out", str(index)]
        subprocess.run(build, check=True)
        with search_server(index, workers=2) as (port, process):
            closed_loop(port, single, CLIENTS, 2.0)
            memory = [memory_mb(process)]
            in_batches = [closed_loop(port, batches, 4, SECONDS) for _ in range(ROUNDS)]
            one_by_one = [closed_loop(port, single, CLIENTS, SECONDS) for _ in range(ROUNDS)]
            capacity = statistics.median(load.rate for load in one_by_one)
            memory.append(memory_mb(process))
            overload = open_loop(port, single, OVERLOAD * capacity, OVERLOAD_SECONDS)
            memory.append(memory_mb(process))
            time.sleep(1.0)
            after = closed_loop(port, single, CLIENTS, SECONDS)
            memory.append(memory_mb(process))
            survivors = len(process.children())
    save(
        "load",
        {
            "corpus": corpus,
            "queries_per_s_in_batches_of_32": _median([BATCH * load.rate for load in in_batches]),
            "queries_per_s_one_by_one": _median([load.rate for load in one_by_one]),
            "overload": {
                "asked_per_s": OVERLOAD * capacity,
                "answered_per_s": overload.rate,
                "p99_ms": overload.percentile(0.99),
                "statuses": dict(overload.statuses),
            },
            "after_per_s": after.rate,
            "after_p99_ms": after.percentile(0.99),
            "memory_mb": memory,
        },
    )
    _print("in batches of 32, queries/s", [BATCH * load.rate for load in in_batches])
    _print("one by one, 32 clients, queries/s", [load.rate for load in one_by_one])
    print(
        f"overload, {OVERLOAD} x {capacity:,.0f}/s for {OVERLOAD_SECONDS:.0f} s: {_line(overload)}"
    )
    print(f"after it: {_line(after)}")
    print(
        f"memory (MB) at start, before, in and after the overload: {memory}; {survivors} processes"
    )


def _median(rates: list[float]) -> dict[str, float]:
    return {"median": statistics.median(rates), "low": min(rates), "high": max(rates)}


def _print(what: str, rates: list[float]) -> None:
    print(f"{what}: {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")


def _line(load: Load) -> str:
    p50, p99 = load.percentile(0.5), load.percentile(0.99)
    return f"{load.rate:,.0f} answered/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, {dict(load.statuses)}"


if __name__ == "__main__":
    main()
