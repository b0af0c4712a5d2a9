"""A million generated pages: build, size, memory and latency, next to bm25s in the same run.

    python benchmarks/search_scale.py [--pages 1000000]

Queries are the world's own one-hop questions. Ours and bm25s answer the same queries in this
process, one thread each, in rounds that alternate; a ratio is a round's. Then real clients ask a
real server over HTTP. Both search the same text: the title three times and the page.
"""

import argparse
import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bm25s
import psutil
import Stemmer
from load import closed_loop, post
from results import save
from serving import memory_mb, search_server

from nanoscout.questions.world import load_world, world_passages
from nanoscout.recipe import QuestionsSpec, WorldSpec
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch

HITS = 10
ROUNDS = 5
OUR_QUERIES, THEIR_QUERIES = 400, 20
"""Queries of one round."""
SECONDS = 10.0
"""Of load over HTTP, for each number of clients."""
CLIENTS = (1, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=1_000_000)
    pages = parser.parse_args().pages
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        ours = build(pages, index)
        print(f"ours: {ours}", flush=True)
        queries = in_a_child(_queries, pages)
        ours |= over_http(index, queries)
        print(f"ours: {ours}", flush=True)
        theirs, ratios = against_bm25s(pages, index, queries, ours)
    save(
        "scale",
        {
            "pages": pages,
            "ours": ours,
            "peers": {"bm25s": theirs},
            "ratios": {"bm25s": statistics.median(ratios)},
            "spread": {"bm25s": [min(ratios), max(ratios)]},
        },
    )
    for name, figures in (("ours", ours), ("bm25s", theirs)):
        print(name)
        for key, value in figures.items():
            print(f"  {key:32} {value:12,.2f}")
    ratio = statistics.median(ratios)
    print(f"throughput over bm25s: {ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


def build(pages: int, index: Path) -> dict[str, float]:
    """Build through the command line; the process's own peak memory comes with its exit."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "nanoscout", "index", "build", f"world:{pages}"]
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [*command, "--out", str(index)])
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit("the build failed")
    seconds = time.perf_counter() - started
    size = sum(file.stat().st_size for file in index.rglob("*") if file.is_file())
    return {
        "build_s": seconds,
        "build_peak_mb": usage.ru_maxrss * 1024 / 1e6,
        "size_mb": size / 1e6,
    }


def over_http(index: Path, queries: Sequence[str]) -> dict[str, float]:
    """Latency and throughput of search with previews, as clients of the server see them."""
    requests = [post("/search", {"query": query, "k": HITS}) for query in queries]
    found: dict[str, float] = {}
    with search_server(index, workers=2) as (port, process):
        closed_loop(port, requests, clients=8, seconds=2.0)
        for clients in CLIENTS:
            load = closed_loop(port, requests, clients, SECONDS)
            if set(load.statuses) != {"200"}:
                sys.exit(f"not all requests were answered: {load.statuses}")
            found |= {
                f"http_{clients}_clients_per_s": load.rate,
                f"http_{clients}_clients_p50_ms": load.percentile(0.5),
                f"http_{clients}_clients_p99_ms": load.percentile(0.99),
            }
        found["server_memory_mb"] = memory_mb(process)
    return found


def against_bm25s(
    pages: int, index: Path, queries: Sequence[str], ours: dict[str, float]
) -> tuple[dict[str, float], list[float]]:
    """Rounds that alternate; adds our latencies in process to `ours`."""
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    stemmer = Stemmer.Stemmer("english")

    def tokens(texts: Sequence[str] | Iterator[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    texts = [f"{f'{p.title} ' * 3}{p.text}" for p in world_passages(WorldSpec(pages=pages))]
    theirs_index = bm25s.BM25()
    theirs_index.index(tokens(texts), show_progress=False)
    del texts
    gc.collect()
    theirs = {
        "build_s": time.perf_counter() - started,
        "memory_mb": (psutil.Process().memory_info().rss - before) / 1e6,
    }
    mine = SearchIndex.open(index)
    engine = LocalSearch(mine)
    loop = asyncio.new_event_loop()

    def search(query: str) -> None:
        mine.search(query, HITS)

    def search_with_previews(query: str) -> None:
        loop.run_until_complete(engine.search(query, HITS))

    def bm25s_search(query: str) -> None:
        theirs_index.retrieve(tokens([query]), k=HITS, show_progress=False)

    runs: dict[str, tuple[Callable[[str], None], int, list[list[float]]]] = {
        "search": (search, OUR_QUERIES, []),
        "search_with_previews": (search_with_previews, OUR_QUERIES, []),
        "bm25s": (bm25s_search, THEIR_QUERIES, []),
    }
    for round_number in range(-1, ROUNDS):
        for call, count, rounds in runs.values():
            chosen = [queries[(round_number + 1) * count + i] for i in range(count)]
            times = [_timed(call, query) for query in chosen]
            if round_number >= 0:  # the round before is for warming up
                rounds.append(times)
    loop.close()
    for name, (_, _, rounds) in runs.items():
        figures, prefix = (theirs, "") if name == "bm25s" else (ours, f"{name}_")
        every = sorted(seconds for times in rounds for seconds in times)
        figures[f"{prefix}per_s"] = statistics.median(1 / statistics.mean(t) for t in rounds)
        figures[f"{prefix}p50_ms"] = statistics.median(every) * 1000
        figures[f"{prefix}p99_ms"] = every[int(0.99 * len(every))] * 1000
    pairs = zip(runs["bm25s"][2], runs["search"][2], strict=True)
    return theirs, [statistics.mean(theirs) / statistics.mean(mine) for theirs, mine in pairs]


def _timed(call: Callable[[str], None], query: str) -> float:
    started = time.perf_counter()
    call(query)
    return time.perf_counter() - started


def _queries(pages: int) -> list[str]:
    world = QuestionsSpec(
        world=WorldSpec(pages=pages), train=OUR_QUERIES * (ROUNDS + 1), hops={"1hop": 1.0}
    )
    return [question.text for question in load_world(world, 0).train]


def in_a_child(make: Callable[[int], list[str]], pages: int) -> list[str]:
    """What it takes of memory goes with it."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1) as child:
        return child.submit(make, pages).result()


if __name__ == "__main__":
    main()
