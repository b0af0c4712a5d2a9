"""What keeps a model from thinking; and thoughts, counted and stripped from the history."""

import asyncio
from pathlib import Path

import pytest
import torch
from qwen import NEEDS_TRL, TEMPLATES, tokenizer, with_tool_tokens
from scripted import ScriptedEngine

from nanoscout.dialogue.chat_template import user
from nanoscout.dialogue.examples import example_messages, result_messages
from nanoscout.dialogue.format import FORMATS, Format, HermesFormat, XmlFormat
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.protocol import Generation, Sampling
from nanoscout.engine.torch_engine import TorchConversation, TorchEngine
from nanoscout.errors import UserError
from nanoscout.models import load_tokenizer
from nanoscout.recipe import ModelSpec, ObjectiveSpec, OptimiserSpec, Recipe
from nanoscout.recipe_file import dump_recipe, load_recipe
from nanoscout.records import Question, StopReason, ToolCall, Trajectory
from nanoscout.rewards import Scores
from nanoscout.rlvr.batch import Group
from nanoscout.rlvr.learner import Learner
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.episode import Limits
from nanoscout.rollout.rollout import EpisodeRequest, run_episodes
from nanoscout.tools.toolbox import Toolbox

XML = XmlFormat()
QUESTION = Question("q", "Capital of France?", "Paris")
TINY = tokenizer()
OPEN, CLOSE = TINY.convert_tokens_to_ids(["<think>", "</think>"])
END = TINY.eos_token_id
BLOCK = "<think>\n\n</think>\n\n"


# The recipe.


def load(tmp_path: Path, dialogue: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "x"\n[dialogue]\n{dialogue}\n[[stage]]\nname = "a"\nsteps = 3\n')
    return load_recipe(path)


@pytest.mark.parametrize(
    ("text", "thinking", "devices"),
    [
        ("", False, ("empty_block", "ban")),
        ("thinking = true", True, ()),
        ("non_thinking = []", False, ()),
        ('non_thinking = ["no_think"]', False, ("no_think",)),
        ("thinking = true\nstrip_thinking = true", True, ()),
    ],
)
def test_devices_of_a_recipe(tmp_path: Path, text: str, thinking: bool, devices: tuple) -> None:
    recipe = load(tmp_path, text)
    assert recipe.dialogue.thinking is thinking
    assert recipe.dialogue.non_thinking == devices
    path = tmp_path / "dumped.toml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('thinking = true\nnon_thinking = ["ban"]', "non_thinking is for thinking = false"),
        ("strip_thinking = true", "strip_thinking is for thinking = true"),
        ('non_thinking = ["ban", "ban"]', "names a device twice"),
        ('non_thinking = ["nothing"]', "dialogue.non_thinking.0"),
        ('thinking = "on"\nnon_thinking = ["ban"]', "non_thinking is for thinking = false"),
        ('thinking = "perhaps"', "dialogue.thinking"),
        ("strip_thoughts = true", "did you mean 'strip_thinking'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# Devices.


@pytest.mark.parametrize("form", [XML, HermesFormat()])
def test_each_device_does_its_part_alone(form: Format) -> None:
    asked = [{"role": "system", "content": "Be brief."}, user("Capital of France?")]
    reply = result_messages(form, ["Paris"], None)

    def written(*devices: str) -> str:
        chat = Dialogue(TINY, form, False, devices=devices)
        assert chat.active_devices == devices
        assert chat.banned_ids == ({OPEN} if "ban" in devices else set())
        return TINY.decode([*chat.prompt(asked), END, *chat.after_turn([END], reply)])

    plain = written()
    assert plain == written("ban") == written("empty_block").replace(BLOCK, "")
    assert written("empty_block", "ban").count("assistant\n" + BLOCK) == 2
    switched = written("no_think")
    assert "Capital of France? /no_think<|im_end|>" in switched
    # A turn that brings nothing but results in the role `tool` is not the user's.
    assert switched.count(" /no_think<|im_end|>") == (2 if form is XML else 1)
    assert switched.replace(" /no_think", "") == plain


def test_only_devices_that_work_with_the_model_are_called_active() -> None:
    llama = load_tokenizer(ModelSpec(source="tiny:llama"))
    assert Dialogue(llama, XML, thinking=False).active_devices == ("ban",)
    assert Dialogue(llama, XML, thinking=True).active_devices == ()
    llama.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}<think>"
    with pytest.raises(UserError, match="add empty_block to"):
        Dialogue(llama, XML, thinking=False, devices=["ban"])


# Thoughts.


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        ("<answer>x</answer>", ""),
        ("<think>\nhm\n</think>\n\n<answer>x</answer>", "<think>\nhm\n</think>"),
        ("<think>naïve 日本 🙂</think>日本", "<think>naïve 日本 🙂</think>"),
        (BLOCK, "<think>\n\n</think>"),
        (" <think>for ever", " <think>for ever"),
        ("opened before</think>x", "opened before</think>"),
        ("", ""),
    ],
)
def test_think_tokens_are_those_of_the_block(text: str, thoughts: str) -> None:
    chat = Dialogue(TINY, XML, thinking=True)
    after = text.removeprefix(thoughts)
    ids = TINY.encode(text)
    count = chat.think_tokens([*ids, END])
    assert TINY.decode(ids[count:]) == after
    if after:
        assert count == len(TINY.encode(thoughts))
    assert count == chat.think_tokens(ids)


@NEEDS_TRL
def test_a_template_that_opens_the_block_makes_all_before_its_end_thoughts() -> None:
    token = tokenizer("deepseek_r1_distill")
    chat = Dialogue(token, XML, thinking=True, strip_thinking=True)
    reply = [user("And?")]
    assert chat.think_tokens([*token.encode("hm"), END]) == len(token.encode("hm"))
    turn = [*token.encode("hm</think>\n\nParis"), END]
    dropped, kept = chat.cut_thoughts(turn, reply) or (0, [])
    prompt = chat.prompt([user("?")])
    history = [*prompt, *turn][:-dropped] + kept
    assert token.decode(history) == "<｜User｜>?<｜Assistant｜>\n\nParis<|im_end|>"


@pytest.mark.parametrize("template", ["tiny", TEMPLATES[1]])
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>\nhm\n</think>\n\nx", "x"),
        ("<think>hm</think></think>\n\n\nx y\n", "x y\n"),
        (BLOCK, ""),
    ],
)
def test_thoughts_leave_the_history_where_the_template_drops_them(
    template: str, text: str, kept: str
) -> None:
    """After anything that the user says; after results in the role `tool` only if empty."""
    token = tokenizer(template)
    turn = [*token.encode(text), END]
    for form, repeated, stays in [
        (XML, None, False),
        (HermesFormat(), None, text != BLOCK),
        (HermesFormat(), "Capital of France?", False),
    ]:
        reply = result_messages(form, ["Paris"], repeated)
        cut = Dialogue(token, form, True, strip_thinking=True).cut_thoughts(turn, reply)
        if stays:
            assert cut is None
        else:
            assert cut == (len(turn), [*token.encode(kept), END])
        assert Dialogue(token, form, thinking=True).cut_thoughts(turn, reply) is None


def test_sampled_ids_stay_even_where_they_are_not_canonical() -> None:
    chat = Dialogue(TINY, XML, thinking=True, strip_thinking=True)
    letters = [TINY.encode(letter)[0] for letter in "answer"]
    assert letters != TINY.encode("answer")
    turn = [OPEN, *letters, CLOSE, *TINY.encode("\n\n"), *letters, END]
    assert chat.cut_thoughts(turn, [user("?")]) == (len(turn), [*letters, END])
    unended = [OPEN, *letters, END]
    assert chat.cut_thoughts(unended, [user("?")]) is None


def test_a_template_that_begins_past_turns_otherwise_is_refused() -> None:
    token = tokenizer()
    token.chat_template = (
        "{% for m in messages %}{{ m.role + '-past:' + m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(UserError, match="strip_thinking=false"):
        Dialogue(token, XML, thinking=True, strip_thinking=True)
    Dialogue(token, XML, thinking=True)


# Whole conversations.

ALLOWED = {OPEN, CLOSE, END, *TINY.encode("\n"), *TINY.encode("a"), *TINY.encode("é")}


def environment(form: Format) -> Environment:
    """Thinking on, stripped; few tokens are allowed, so that a random model thinks at times."""
    chat = Dialogue(TINY, form, thinking=True, strip_thinking=True)
    chat.banned_ids = frozenset(range(len(TINY))) - ALLOWED
    return Environment(chat, Toolbox([]), "Be brief.")


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(with_tool_tokens(), concurrency=3, context=4_000)


def converse(engine: TorchEngine, form: Format, seeds: range) -> list[Trajectory]:
    """Malformed turns, each answered with an error, until the turns are used up."""
    limits = Limits(context=4_000, turns=4, turn_tokens=200, malformed_turns=9)
    requests = [EpisodeRequest(QUESTION, Sampling(), seed) for seed in seeds]
    return asyncio.run(run_episodes(requests, environment(form), engine, limits))


@pytest.fixture(scope="module")
def stripped(engine: TorchEngine) -> list[Trajectory]:
    trajectories = converse(engine, XML, range(8))
    assert sum(len(trajectory.restarts) for trajectory in trajectories) > 8
    return trajectories


def test_each_turn_saw_the_history_that_the_template_writes(stripped: list[Trajectory]) -> None:
    for trajectory in stripped:
        starts = [part.start for part in trajectory.sequences]
        messages = [{"role": "system", "content": "Be brief."}, user(QUESTION.text)]
        for turn in trajectory.turns:
            start = max(start for start in starts if start <= turn.start)
            whole = TINY.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert TINY.decode(trajectory.token_ids[start : turn.start]) == whole
            assert TINY.decode(trajectory.token_ids[turn.start : turn.end]).startswith(turn.text)
            reply = result_messages(XML, [result.text for result in turn.results], None)
            messages += [{"role": "assistant", "content": turn.text}, *reply]
    assert {trajectory.stop for trajectory in stripped} <= {
        StopReason.TURN_LIMIT,
        StopReason.TOKEN_LIMIT,
    }


def test_each_sampled_token_is_trained_on_once_where_it_was_sampled(
    stripped: list[Trajectory], engine: TorchEngine
) -> None:
    """The learner scores them as the engine did: both saw the same contexts."""
    scores = [Scores({}, float(number)) for number in range(len(stripped))]
    samples = Group(QUESTION, stripped, scores).samples(ObjectiveSpec(mask_cut=False))
    parts = [part for trajectory in stripped for part in trajectory.sequences]
    assert len(samples) == len(parts) > len(stripped)
    said = [t.token_ids[turn.start : turn.end] for t in stripped for turn in t.turns]
    assert sum(sample.sampled_tokens for sample in samples) == sum(map(len, said))
    assert all(any(sample.sampled) for sample in samples)
    owners = [trajectory.seed for trajectory in stripped for _ in trajectory.sequences]
    shares = {(owner, sample.advantage) for owner, sample in zip(owners, samples, strict=True)}
    assert len(shares) == len(stripped)
    banned = sorted(environment(XML).dialogue.banned_ids)
    learner = Learner(engine._model, OptimiserSpec(microbatch_tokens=900), ObjectiveSpec(), banned)
    gap, ratio = learner.agreement(samples, temperature=1.0)
    assert gap < 1e-4
    assert ratio == pytest.approx(1.0, abs=1e-4)


def test_thoughts_are_counted_and_stay_where_the_template_keeps_them(engine: TorchEngine) -> None:
    """Qwen3's keeps them before a result in the role `tool`, unless the block is empty."""
    trajectories = converse(engine, HermesFormat(), range(8))
    kept = 0
    for trajectory in trajectories:
        blocks = [
            turn.text.partition("</think>")[0].rpartition("<think>")[2].strip("\n")
            for turn in trajectory.turns[:-1]
            if "</think>" in turn.text
        ]
        kept += len(list(filter(None, blocks)))
        assert len(trajectory.restarts) == blocks.count("")
        assert len(trajectory.sequences) == 1 + blocks.count("")
        for turn in trajectory.turns:
            ids = trajectory.token_ids[turn.start : turn.end]
            thought = OPEN in ids or CLOSE in ids
            assert turn.think_tokens <= len(ids)
            assert thought or not turn.think_tokens
    assert kept > 0
    assert sum(trajectory.think_tokens for trajectory in trajectories) > kept


@pytest.mark.parametrize("name", FORMATS)
def test_the_context_limit_counts_what_the_model_sees(name: str) -> None:
    """Stripped thoughts make room: the same conversation goes on for longer."""
    form = FORMATS[name]()
    text = "<think>" + "hm " * 100 + "</think>\n\nI do not know."
    lengths = []
    for strip in (True, False):
        chat = Dialogue(TINY, form, True, strip_thinking=strip)
        env = Environment(chat, Toolbox([]), "Be brief.", repeat_question=True)
        scripted = ScriptedEngine(TINY, lambda so_far, seed: text)
        limits = Limits(context=1_500, turns=99, turn_tokens=600, malformed_turns=99)
        requests = [EpisodeRequest(QUESTION, Sampling(), 0)]
        (trajectory,) = asyncio.run(run_episodes(requests, env, scripted, limits))
        assert trajectory.stop is StopReason.CONTEXT_LIMIT
        assert max(part.stop - part.start for part in trajectory.sequences) <= 1_500
        assert {turn.think_tokens for turn in trajectory.turns[:-1]} == {302}
        lengths.append(len(trajectory.turns))
    assert lengths[0] > lengths[1]


# The engine.


@pytest.mark.parametrize("shared", [0, 40, 60])
@pytest.mark.parametrize("length", [45, 61, 70])
def test_a_rewound_conversation_is_as_one_that_never_went_on(
    engine: TorchEngine, shared: int, length: int
) -> None:
    """Where the shared prefix is longer than what is left, too."""
    prompt = torch.randint(3, 300, (62,), generator=torch.Generator().manual_seed(1)).tolist()
    sampling = Sampling(temperature=0.0, max_tokens=12)
    more = [7, 8, 9]

    async def turn(conversation: TorchConversation, ids: list[int]) -> Generation:
        return await conversation.generate(ids, sampling)

    async def scenario() -> tuple[Generation, Generation]:
        engine.forget()
        engine.share_prefix(prompt[:shared])
        one, other = engine.conversation(0), engine.conversation(0)
        said = [*prompt, *(await turn(one, prompt)).token_ids]
        assert (await turn(other, prompt)).token_ids == said[62:]
        one.rewind(length)
        assert one.token_ids == said[:length]
        rewound = await turn(one, more)
        one.close()
        other.close()
        engine.forget()
        engine.share_prefix([])
        fresh = engine.conversation(0)
        expected = await turn(fresh, [*said[:length], *more])
        fresh.close()
        return rewound, expected

    rewound, expected = asyncio.run(scenario())
    assert rewound.token_ids == expected.token_ids
    assert rewound.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert engine._members == []


# Worked examples.


def test_an_example_thinks_in_real_think_tokens_and_its_texts_cannot() -> None:
    call = ToolCall("web_search", {"query": "capital of <think> France"})
    turns = [(call, "Paris is <think> its capital </think>")]
    example = example_messages("Q?", turns, "Paris", XML, repeat_question=False, thinking=True)
    llama = load_tokenizer(ModelSpec(source="tiny:llama"))
    ids = Dialogue(llama, XML, thinking=True).prompt([*example, user("Capital of Spain?")])
    assert (ids.count(OPEN), ids.count(CLOSE)) == (2, 2)
    first = ids.index(OPEN)
    thought = TINY.decode(ids[first : ids.index(CLOSE) + 1])
    assert thought == "<think>\nI have to find out: capital of < think> France\n</think>"
    without = example_messages("Q?", turns, "Paris", XML, repeat_question=False)
    prompt = Dialogue(llama, XML, thinking=False).prompt([*without, user("Capital of Spain?")])
    assert OPEN not in prompt


def test_qwen_cuts_an_examples_thoughts_as_those_of_any_past_turn() -> None:
    example = example_messages("Q?", [], "Paris", XML, repeat_question=False, thinking=True)
    ids = Dialogue(TINY, XML, thinking=True).prompt([*example, user("Capital of Spain?")])
    assert OPEN not in ids
    assert "<answer>Paris</answer>" in TINY.decode(ids)
