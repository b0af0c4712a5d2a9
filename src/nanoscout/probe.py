"""Probe a model's long contexts: does it find one fact among ever more tool results?

For each length and each depth the model is shown a few conversations (evaluation/haystack.py) and
its answer is begun for it, so that what is measured is whether it sees the fact, not whether it
keeps the form or would rather search on. For the same reason an answer counts as right that
contains the gold one as whole words; no other page of the conversation contains it. What it said
stands in `probe.json`, with whether it matches exactly; `probe.png` is the heat map. A probe that
was stopped goes on where it was: a finished cell is not run again.
"""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedModel

from nanoscout.answers import exact_match
from nanoscout.dialogue.format import XmlFormat
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.protocol import Sampling
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.errors import UserError
from nanoscout.evaluation.haystack import Needle, haystack_prompt, haystack_toolbox, needles
from nanoscout.evaluation.heat_map import draw_heat_map
from nanoscout.files import write_json
from nanoscout.models import generation_stop_ids, load_model
from nanoscout.questions.question_set import contains
from nanoscout.recipe import ModelSpec
from nanoscout.rollout.environment import Environment
from nanoscout.setting import is_run, open_setting

ANSWER_TOKENS = 32
"""Room for the answer, within each length."""


def probe_model(
    run_or_model: str,
    model: str,
    lengths: str,
    depths: str,
    trials: int,
    out: Path,
    console: Console,
) -> dict[str, Any]:
    """Run the cells that `out` does not hold yet; returns what is then in its `probe.json`.

    A run is probed in its own prompt, with its trained model or with another one. A model alone
    gets the default prompt, and the question once more under each result.
    Raises UserError for lengths beyond the model's positions, and for a folder that holds a probe
    of something else.
    """
    cells = [
        (length, depth) for length in _numbers("lengths", lengths, 1, math.inf)
        for depth in _numbers("depths", depths, 0, 100)
    ]  # fmt: skip
    hidden = needles(trials)
    network, environment = _open(run_or_model, model)
    longest = cells[-1][0]
    positions = getattr(network.config, "max_position_embeddings", longest)
    if longest > positions:
        raise UserError(
            f"--lengths {longest}: the model has {positions} positions; leave it away, or scale "
            f"the model with nanoscout export --context {longest} and probe that"
        )
    probe: dict[str, Any] = {
        "probed": run_or_model,
        "model": model or None,
        "positions": positions,
        "trials": trials,
        "fingerprint": _fingerprint(network, environment, hidden),
        "cells": [],
    }
    asyncio.run(_check(environment, hidden, cells))
    _take_up(probe, out)
    engine = TorchEngine(network, concurrency=1, context=longest)
    done = {(cell["length"], cell["depth"]) for cell in probe["cells"]}
    left = [cell for cell in cells if cell not in done]
    with _progress(console) as progress:
        task = progress.add_task("probing", total=sum(length for length, _ in left))
        for length, depth in left:
            cell = asyncio.run(_cell(engine, environment, hidden, length, depth))
            probe["cells"].append(cell)
            write_json(out / "probe.json", probe)
            progress.console.print(_line(cell), highlight=False)
            progress.advance(task, length)
    title = f"Facts found behind tool results\n{model or run_or_model}"
    draw_heat_map(probe["cells"], out / "probe.png", title)
    console.print(f"Picture: {out / 'probe.png'}   Figures: {out / 'probe.json'}")
    return probe


async def _cell(
    engine: TorchEngine,
    environment: Environment,
    hidden: Sequence[Needle],
    length: int,
    depth: float,
) -> dict[str, Any]:
    answers, tokens, seconds = [], 0, 0.0
    for needle in hidden:
        started = time.perf_counter()
        prompt = await _prompt(environment, needle, length, depth)
        said = await _answer(engine, environment, prompt)
        seconds += time.perf_counter() - started
        tokens += len(prompt)
        golds = (needle.question.answer, *needle.question.aliases)
        answers.append(
            {
                "question": needle.question.text,
                "gold": needle.question.answer,
                "answer": said,
                "right": any(contains(said, gold) for gold in golds),
                "exact": exact_match(said, golds),
            }
        )
    return {
        "length": length,
        "depth": depth,
        "right": sum(answer["right"] for answer in answers),
        "exact": sum(answer["exact"] for answer in answers),
        "n": len(answers),
        "tokens": tokens / len(answers),
        "seconds": seconds,
        "answers": answers,
    }


async def _check(
    environment: Environment, hidden: Sequence[Needle], cells: Sequence[tuple[int, int]]
) -> None:
    """Raise UserError now, not after hours, for lengths that can't be filled."""
    for needle in hidden:
        for length, depth in cells:
            if length == cells[0][0]:
                await _prompt(environment, needle, length, depth)
    await _prompt(environment, hidden[0], *cells[-1])


async def _prompt(environment: Environment, needle: Needle, length: int, depth: float) -> list[int]:
    """The haystack with the answer begun, and room for it within `length`."""
    dialogue = environment.dialogue
    begun = dialogue.tokenizer.encode(_answer_tags(dialogue)[0], add_special_tokens=False)
    reserve = ANSWER_TOKENS + len(begun)
    return [*await haystack_prompt(environment, needle, length, depth, reserve), *begun]


async def _answer(engine: TorchEngine, environment: Environment, prompt: list[int]) -> str:
    dialogue = environment.dialogue
    greedy = Sampling(
        temperature=0.0,
        max_tokens=ANSWER_TOKENS,
        stop_ids=dialogue.stop_ids,
        banned_ids=dialogue.banned_ids,
    )
    conversation = engine.conversation(seed=0)
    try:
        generation = await conversation.generate(prompt, greedy)
    finally:
        conversation.close()
    text = dialogue.decode_turn(generation.token_ids)
    return text.partition(_answer_tags(dialogue)[1])[0].strip()


def _answer_tags(dialogue: Dialogue) -> tuple[str, str]:
    opening, _, closing = dialogue.format.render_answer("?").partition("?")
    return opening, closing


def _open(run_or_model: str, model: str) -> tuple[PreTrainedModel, Environment]:
    if is_run(run_or_model):
        _, setting = open_setting(Path(run_or_model), model)
        return setting.model, setting.environment
    if model:
        raise UserError(f"--model: {run_or_model} is no run; name the model in its place")
    network, tokenizer = load_model(ModelSpec(source=run_or_model))
    fmt = XmlFormat()
    return network, Environment(
        dialogue=Dialogue(tokenizer, fmt, thinking=False, stop_ids=generation_stop_ids(network)),
        toolbox=haystack_toolbox(),
        system=fmt.system_prompt(haystack_toolbox().specs),
        repeat_question=True,
    )


def _numbers(option: str, text: str, least: int, most: float) -> list[int]:
    """Whole numbers out of "4096,8192", in order, each once."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"--{option} {text}: write whole numbers, such as 10,20") from None
    for number in numbers:
        if not least <= number <= most:
            raise UserError(f"--{option} {text}: {number} is out of range")
    return numbers


def _take_up(probe: dict[str, Any], out: Path) -> None:
    """Put the cells of an unfinished probe into this one; refuse another probe's folder."""
    path = out / "probe.json"
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = all(found[key] == probe[key] for key in ("trials", "fingerprint"))
            cells = found["cells"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} holds something else; choose another folder") from None
        if not same:
            raise UserError(
                f"{path} is a probe with other weights, prompt or trials; choose another folder "
                "with --out"
            )
        probe["cells"] = cells
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} can't be made: {error}") from error


def _fingerprint(
    network: PreTrainedModel, environment: Environment, hidden: Sequence[Needle]
) -> str:
    """Of all that an answer depends on: weights, positions, prompt and questions."""
    digest = hashlib.blake2b(digest_size=16)
    for parameter in network.parameters():
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    prompts = [environment.prompt_ids(needle.question) for needle in hidden]
    rope = getattr(network.config, "rope_parameters", None)
    rest = [rope, environment.repeat_question, prompts]
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def _progress(console: Console) -> Progress:
    """A bar over the tokens of all cells, since they tell the time better than the cells do."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _line(cell: dict[str, Any]) -> str:
    return (
        f"{cell['length']:>8,} tokens, depth {cell['depth']:>3}%: "
        f"{cell['right']} of {cell['n']} found ({cell['seconds']:.0f} s)"
    )
