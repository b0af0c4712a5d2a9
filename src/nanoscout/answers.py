"""Verifiable correctness of short answers: normalise, exact match, containment, token F1."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ACCENTS = re.compile("[\u0300-\u036f]")


def normalise(text: str) -> str:
    """Lower case, no accents, punctuation or articles, single spaces.

    SQuAD's normalisation (Rajpurkar et al. 2016; MuSiQue uses the same) after Unicode's: full-width
    and composed forms count as their plain ones (NFKD), and accents of Latin, Greek and Cyrillic
    are dropped, so that `Zürich` and `Zurich` are one answer. Punctuation is that of every script;
    as in SQuAD it leaves no gap: `twenty-one` becomes `twentyone`.
    """
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text)).casefold()
    words = "".join(character for character in plain if not _is_punctuation(character))
    return " ".join(_ARTICLES.sub(" ", words).split())


def exact_match(prediction: str, golds: Sequence[str]) -> bool:
    """Whether the normalised prediction equals a normalised gold answer or alias.

    A gold that normalises to nothing never matches; a list of candidates equals none of them.
    """
    return normalise(prediction) in _wanted(golds)


def contains(prediction: str, golds: Sequence[str]) -> bool:
    """Whether a normalised gold answer or alias stands somewhere in the normalised prediction.

    Characters are compared, not words: `art` stands in `Bonaparte`, and a list of candidates
    contains the right one. A gold that normalises to nothing stands nowhere.
    """
    said = normalise(prediction)
    return any(gold in said for gold in _wanted(golds))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """The best token F1 against any gold, in [0, 1]; empty golds score 0."""
    return max((_f1(normalise(prediction), normalise(gold)) for gold in golds), default=0.0)


def _wanted(golds: Sequence[str]) -> set[str]:
    return {normalise(gold) for gold in golds} - {""}


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _f1(prediction: str, gold: str) -> float:
    said, wanted = Counter(prediction.split()), Counter(gold.split())
    common = (said & wanted).total()
    if not common:
        return 0.0
    precision, recall = common / said.total(), common / wanted.total()
    return 2 * precision * recall / (precision + recall)
