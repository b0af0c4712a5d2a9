"""The suites by name: who reads their file, where it is published, and where answers are found.

A file that can be fetched is named by address and checksum. Where the authors publish an archive,
or put a file where its bytes cannot be relied on, the person is told where to get it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanoscout.errors import UserError
from nanoscout.evaluation.suites.download import Published, fetch, sha256_of
from nanoscout.evaluation.suites.subset import fair_order
from nanoscout.evaluation.suites.suite import Source, Subject, Suite
from nanoscout.questions.bamboogle import read_bamboogle
from nanoscout.questions.hotpotqa import read_hotpotqa
from nanoscout.questions.jsonl import read_jsonl
from nanoscout.questions.musique import read_musique
from nanoscout.questions.popqa import read_popqa
from nanoscout.questions.question_file import QuestionFile
from nanoscout.questions.simpleqa import read_simpleqa
from nanoscout.questions.twowiki import read_2wiki
from nanoscout.questions.world import load_world
from nanoscout.recipe import QuestionsSpec
from nanoscout.recipe_file import load_recipe


@dataclass(frozen=True)
class Kind:
    """One name of SUITES."""

    about: str
    read: Callable[[Path], QuestionFile]
    where: str
    """Where a person gets the file."""
    published: Published | None = None
    subject: Subject = "world"


SUITES: dict[str, Kind] = {
    "simpleqa": Kind(
        "4,326 short questions with one answer, for search or closed book (OpenAI 2024)",
        read_simpleqa,
        "simple_qa_test_set.csv, named in github.com/openai/simple-evals",
        Published(
            "simple_qa_test_set.csv",
            "https://openaipublic.blob.core.windows.net/simple-evals/simple_qa_test_set.csv",
            "feee3f7e7db3617e94e8fcf1977b756ec420ef8568f4e0fcbbe0e92e9d5fc032",
        ),
    ),
    "simpleqa-verified": Kind(
        "1,000 of SimpleQA's questions, checked and balanced (Google DeepMind 2025)",
        read_simpleqa,
        "simpleqa_verified.csv of huggingface.co/datasets/google/simpleqa-verified",
        Published(
            "simpleqa_verified.csv",
            "https://huggingface.co/datasets/google/simpleqa-verified/resolve/"
            "0dc97e0d28d8233463e005cdc4475cc2a13ba2dc/simpleqa_verified.csv",
            "b5db21155444763543fe31b67e7cf28ce2bb225742a5b889421c5f182e2f92f5",
        ),
    ),
    "musique": Kind(
        "questions of two to four hops over their own Wikipedia paragraphs (2022)",
        read_musique,
        "musique_ans_v1.0_dev.jsonl of github.com/StonyBrookNLP/musique",
    ),
    "hotpotqa": Kind(
        "7,405 two-hop questions over their own Wikipedia paragraphs (2018)",
        read_hotpotqa,
        "hotpot_dev_distractor_v1.json of hotpotqa.github.io",
        Published(
            "hotpot_dev_distractor_v1.json",
            "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
            "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea",
        ),
    ),
    "2wikimultihopqa": Kind(
        "questions of two and four hops over their own Wikipedia paragraphs (2020)",
        read_2wiki,
        "dev.json (with id_aliases.json beside it) of github.com/Alab-NII/2wikimultihop",
    ),
    "bamboogle": Kind(
        "125 two-hop questions for the open web (2022)",
        read_bamboogle,
        "the table that github.com/ofirpress/self-ask names, as CSV",
        Published(
            "bamboogle.json",
            "https://raw.githubusercontent.com/LoganMilandin/comp-gap-public/"
            "76673055865beb4a6763b8e60a1767539a930b2b/data/bamboogle.json",
            "a09d863a9f61a1d6b080b1abdacdd0c652e48e648d68a536b6ced6b196234fea",
        ),
    ),
    "popqa": Kind(
        "14,267 questions about little-known entities, for a Wikipedia index or the web (2023)",
        read_popqa,
        "data/popQA.tsv of github.com/AlexTMallen/adaptive-retrieval",
    ),
    "jsonl": Kind(
        "questions of your own: {question, answer, aliases?, id?, hop_type?, topic?} a line",
        read_jsonl,
        "your own file",
        subject="yours",
    ),
}
"""All but `world`, which needs no file."""

WORLD = "world"
NAMES = (*SUITES, WORLD)


def open_suite(
    name: str, path: Path | None = None, limit: int | None = None, seed: int = 0
) -> Suite:
    """The suite of this name: all its questions, or a fair sample of `limit` (suites/subset.py).

    `path`: the file (plain or gzip); without it the published one is fetched, once. For `world` it
    is the recipe, or the run, whose generated world and held-out questions are meant; without it
    the default world's. Raises UserError for an unknown name, a file that is not there or is
    broken, or one that must be got by hand.
    """
    if name == WORLD:
        return _world(path, limit, seed)
    if name not in SUITES:
        raise UserError(f"no suite is called {name!r}; there are {', '.join(NAMES)}")
    kind = SUITES[name]
    if path is not None:
        file, place = path, str(path)
    elif kind.published is not None:
        file, place = fetch(kind.published), kind.published.url
    else:
        raise UserError(f"suite {name}: name its file with --path ({kind.where})")
    sha256 = sha256_of(file)
    source = Source(place, sha256, kind.published is not None and sha256 == kind.published.sha256)
    return _sample(name, source, kind.read(file), kind.subject, limit, seed)


def _world(path: Path | None, limit: int | None, seed: int) -> Suite:
    spec, world_seed = QuestionsSpec(), 0
    if path is not None:
        recipe = load_recipe(path / "recipe.toml" if path.is_dir() else path)
        spec, world_seed = recipe.questions, recipe.seed
        if spec.source != WORLD:
            raise UserError(f"{path}: its questions are {spec.source}, not a generated world")
    world = load_world(spec, world_seed)
    source = Source(str(path or f"{WORLD}:{spec.world.pages}:{spec.world.seed}"), "", False)
    file = QuestionFile(world.held_out, world.passages)
    return _sample(WORLD, source, file, "fiction", limit, seed)


def _sample(
    name: str, source: Source, file: QuestionFile, subject: Subject, limit: int | None, seed: int
) -> Suite:
    ordered = fair_order(file.questions, file.topics, seed)
    return Suite(
        name=name,
        source=source,
        questions=ordered[:limit],
        of=len(ordered),
        subject=subject,
        passages=file.passages,
        topics=file.topics,
        answer_types=file.answer_types,
        pages=file.pages,
    )
