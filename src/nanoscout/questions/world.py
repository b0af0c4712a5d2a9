"""A fictional encyclopedia, and questions that nobody can answer without searching it.

Entities with invented names are related to each other; every entity has a page. A page begins with
its lead facts, which a search preview shows; after some filler come the late ones, which only a
visit shows. Questions follow relations over one to four pages, shaped like MuSiQue's, and each has
exactly one answer, since names are unique and every relation has one value. Every entity belongs
to one of three splits, and all pages that a question rests on belong to its split, so training and
evaluation share no chain of facts. The world is a function of its own seed.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nanoscout.questions.question_set import QuestionSet, contains
from nanoscout.questions.sampler import select
from nanoscout.questions.world_names import Names
from nanoscout.questions.world_schema import (
    KINDS,
    LITERALS,
    NUMBERS,
    UNITS,
    Kind,
    Relation,
    Templates,
)
from nanoscout.recipe import QuestionsSpec, WorldSpec
from nanoscout.records import Passage, Question, Step

SITE = "https://fictopedia.org/wiki/"
SPLITS = {"train": 0.76, "held_out": 0.2, "examples": 0.04}
"""Share of the entities, once every split has one of each kind."""
HOP_TYPES = {"1hop": 1, "2hop": 2, "3hop1": 3, "4hop1": 4}
UNASKED = 1 / 8
"""Weight in the training questions of a hop type that the recipe's mix does not name, relative to
the mix's largest: stages may have a mix of their own."""
ROUNDS = 3
"""Questions of each hop type that are tried from each entity."""
EXAMPLES = 40
"""Example questions of each hop type, at most."""
EXAMPLES_HIDDEN = 1 / 3
"""Least share of hidden answers in them: recipes pick examples with and without a visit."""
LEAD_FACTS = 2
LATE_FROM = 300
"""Characters of a page before its late facts."""
ALIASES = 0.2
"""Share of the persons and cities that have another name."""

FILLER = (
    "Many visitors come to see {x} in summer.",
    "A small exhibition tells the story of {x}.",
    "Local guides speak about {x} with pride.",
    "{x} has been described in {n} guide books.",
    "There are {n} old photographs of {x} in the archive.",
    "Schools in the region teach children about {x}.",
    "Critics have disagreed about {x} for {n} years.",
    "A stamp that shows {x} was once printed.",
    "As many as {n} songs mention {x} by name.",
    "The archive keeps {n} letters that mention {x}.",
    "A club of {n} members collects stories about {x}.",
    "Every child in the region can draw {x}.",
)


class Fact(NamedTuple):
    relation: Relation
    value: "Entity | str"

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else self.value.name


class Hop(NamedTuple):
    entity: "Entity"
    fact: Fact


@dataclass(slots=True, eq=False)
class Entity:
    id: str
    name: str
    kind: Kind
    split: str
    alias: str | None
    lead: list[Fact] = field(default_factory=list)
    late: list[Fact] = field(default_factory=list)


def load_world(spec: QuestionsSpec, seed: int) -> QuestionSet:
    """The world's pages and questions; `spec.world.seed` makes the world, `seed` picks from it.

    Takes about 1.3 KB of memory a page. Raises UserError where no hop type of `spec.hops` exists.
    """
    rng = random.Random(spec.world.seed)
    entities = _population(spec.world, rng)
    passages = [_page(entity, rng) for entity in entities]
    split = {name: [entity for entity in entities if entity.split == name] for name in SPLITS}
    pages = {passage.id: passage.text for passage in passages}
    hidden = spec.world.hidden
    train = _questions(split["train"], pages, hidden, spec.train, rng)
    held_out = _questions(split["held_out"], pages, hidden, spec.held_out, rng)
    examples = _questions(split["examples"], pages, max(hidden, EXAMPLES_HIDDEN), EXAMPLES, rng)
    unasked = max(spec.hops.values()) * UNASKED
    return QuestionSet(
        train=select(train, dict.fromkeys(HOP_TYPES, unasked) | spec.hops, spec.train, seed),
        held_out=select(held_out, spec.hops, spec.held_out, seed),
        examples=examples,
        passages=passages,
    )


def world_passages(spec: WorldSpec) -> Iterator[Passage]:
    """The pages of `load_world`, one after another, without its questions."""
    rng = random.Random(spec.seed)
    for entity in _population(spec, rng):
        yield _page(entity, rng)


def _population(spec: WorldSpec, rng: random.Random) -> list[Entity]:
    entities = _entities(spec, rng)
    _relate(entities, rng)
    return entities


def _entities(spec: WorldSpec, rng: random.Random) -> list[Entity]:
    """`spec.pages` entities, each kind at least once in each split, look-alikes among them."""
    names = Names(rng)
    entities: list[Entity] = []

    def add(kind: Kind, name: str, split: str) -> None:
        alias = None
        if kind.name in ("person", "city") and rng.random() < ALIASES:
            alias = names.initial(name) if kind.name == "person" else names.draw("Port {w}")[0]
        entities.append(Entity(f"w{len(entities):07}", name, kind, split, alias))

    def any_split() -> str:
        return rng.choices(list(SPLITS), list(SPLITS.values()))[0]

    for split in SPLITS:
        for kind in KINDS:
            add(kind, names.draw(rng.choice(kind.names))[0], split)
    weights = [kind.weight for kind in KINDS]
    while len(entities) < spec.pages:
        (kind,) = rng.choices(KINDS, weights)
        name, word = names.draw(rng.choice(kind.names))
        add(kind, name, any_split())
        if rng.random() < spec.distractors and len(entities) < spec.pages:
            (other,) = rng.choices((kind, *KINDS), (sum(weights), *weights))
            if kind is other and kind.name != "person":
                look_alike = names.prefix(name)
            else:
                look_alike = names.share(rng.choice(other.names), word)
            if look_alike:
                add(other, look_alike, any_split())
    return entities


def _relate(entities: list[Entity], rng: random.Random) -> None:
    """Give every entity a value for each relation of its kind, from its own split.

    A capital lies in its country.
    """
    pools: dict[tuple[str, str], list[Entity]] = {}
    for entity in entities:
        pools.setdefault((entity.kind.name, entity.split), []).append(entity)
    capitals = {
        country.id: city
        for split in SPLITS
        for country, city in zip(pools["country", split], pools["city", split], strict=False)
    }
    countries = {capitals[e.id].id: e for e in entities if e.id in capitals}

    def value(entity: Entity, relation: Relation) -> Entity | str:
        if relation.target in NUMBERS:
            return str(rng.randint(*NUMBERS[relation.target]))
        if relation.target in LITERALS:
            return rng.choice(LITERALS[relation.target])
        if relation.name == "capital" and entity.id in capitals:
            return capitals[entity.id]
        if entity.kind.name == "city" and relation.name == "country" and entity.id in countries:
            return countries[entity.id]
        return rng.choice(pools[relation.target, entity.split])

    for entity in entities:
        facts = [Fact(relation, value(entity, relation)) for relation in entity.kind.relations]
        rng.shuffle(facts)
        leading = min(LEAD_FACTS, len(facts) - 1)
        entity.lead, entity.late = facts[:leading], facts[leading:]


def _page(entity: Entity, rng: random.Random) -> Passage:
    """Lead facts, filler, late facts."""
    kind, name = entity.kind.name, entity.name
    article = "an" if kind[0] in "aeio" else "a"
    sentences = [f"{name} is {article} {kind}."]
    for fact in entity.lead:
        sentences.append(_tell(entity, fact, fact.relation.lead, rng))
    if entity.alias:
        sentences.append(f"Older sources use the name {entity.alias}.")
    for filler in rng.sample(FILLER, len(FILLER)):
        if sum(len(sentence) + 1 for sentence in sentences) >= LATE_FROM:
            break
        sentences.append(filler.format(x=name, n=rng.randint(2, 30)))
    for fact in entity.late:
        sentences.append(_tell(entity, fact, fact.relation.late, rng))
    return Passage(entity.id, name, " ".join(sentences), SITE + name.replace(" ", "_"))


def _tell(entity: Entity, fact: Fact, templates: Templates, rng: random.Random) -> str:
    it = rng.choice(("It", f"The {entity.kind.name}"))
    return rng.choice(templates).format(x=entity.name, it=it, y=fact.text)


def _questions(
    entities: list[Entity],
    pages: Mapping[str, str],
    hidden: float,
    limit: int,
    rng: random.Random,
) -> list[Question]:
    """At most `limit` questions of each hop type, a share `hidden` of them with a late answer.

    Ordered so that the first ones ask for different relations.
    """
    found: dict[str, tuple[int, Question]] = {}
    total: Counter[str] = Counter()
    late: Counter[str] = Counter()
    asked: Counter[tuple[str, str]] = Counter()
    for _ in range(ROUNDS):
        for entity in rng.sample(entities, len(entities)):
            open_types = [hop_type for hop_type in HOP_TYPES if total[hop_type] < limit]
            if not open_types:
                break
            for hop_type in open_types:
                is_late = late[hop_type] + 1 <= hidden * (total[hop_type] + 1)
                chain = _chain(entity, HOP_TYPES[hop_type], is_late, rng)
                question = _question(chain, hop_type, pages, rng) if chain else None
                if chain and question and question.id not in found:
                    relation = (hop_type, chain[-1].fact.relation.name)
                    found[question.id] = (asked[relation], question)
                    asked[relation] += 1
                    total[hop_type] += 1
                    late[hop_type] += is_late
    return [question for _, question in sorted(found.values(), key=lambda item: item[0])]


def _chain(entity: Entity, hops: int, late: bool, rng: random.Random) -> list[Hop] | None:
    """A random walk from `entity` on over `hops` facts; None where it gets stuck.

    All are lead facts, except for the last one where `late`.
    """
    chain: list[Hop] = []
    for _ in range(hops - 1):
        onward = [
            (fact, fact.value)
            for fact in entity.lead
            if isinstance(fact.value, Entity) and all(fact.value is not e for e, _ in chain)
        ]
        if not onward:
            return None
        fact, value = rng.choice(onward)
        chain.append(Hop(entity, fact))
        entity = value
    return [*chain, Hop(entity, rng.choice(entity.late if late else entity.lead))]


def _question(
    chain: list[Hop], hop_type: str, pages: Mapping[str, str], rng: random.Random
) -> Question | None:
    """The chain as a question; None where its words or an earlier page give a hop away."""
    steps = tuple(
        Step(rng.choice(fact.relation.ask).format(x=entity.name), fact.text, entity.id)
        for entity, fact in chain
    )
    subject = chain[0].entity.name
    for _, fact in chain[:-1]:
        subject = fact.relation.phrase.format(x=subject)
    last = chain[-1].fact
    asks = last.relation.ask
    if len(chain) > 1 and last.relation.ask_long:
        asks = (last.relation.ask_long,)
    text = rng.choice(asks).format(x=subject)
    told_early = any(contains(pages[entity.id], last.text) for entity, _ in chain[:-1])
    if told_early or any(step.answer in text for step in steps):
        return None
    path = "_".join(f"{entity.id}-{fact.relation.name.replace(' ', '-')}" for entity, fact in chain)
    if isinstance(last.value, Entity):
        alias = last.value.alias
    else:
        unit = UNITS.get(last.relation.target)
        alias = f"{last.text} {unit}" if unit else None
    return Question(
        id=f"{hop_type}__{path}",
        text=text,
        answer=last.text,
        aliases=(alias,) if alias else (),
        hop_type=hop_type,
        steps=steps,
    )
