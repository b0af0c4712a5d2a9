"""What there is in the generated world: kinds of entities and the relations between them.

A relation is functional: each entity of its kind has exactly one value, another entity or a
literal. `lead` and `late` tell it on the entity's page, `ask` asks for it, and `phrase` names its
value in a longer question, so that questions of several hops are phrases put into phrases.
In the templates {x} is the entity's name, {it} stands for `It` or `The tower`, {y} is the value.
"""

from dataclasses import dataclass

Templates = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    name: str
    target: str
    """The kind of entity that the value is, or a key of LITERALS or NUMBERS."""
    lead: Templates
    """How it is told at the beginning of a page."""
    late: Templates
    """How it is told far down a page."""
    ask: Templates
    phrase: str = ""
    """Names the value in a longer question; empty for literals, which have no page."""
    ask_long: str = ""
    """Asks for it where x is such a phrase; empty where `ask` reads well with one."""


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    names: Templates
    """Patterns of names: {w} is an invented word, {given} a given name."""
    weight: int
    """Share of the world's pages, relative to other kinds."""
    relations: tuple[Relation, ...]


LITERALS: dict[str, tuple[str, ...]] = {
    "occupation": (
        "baker", "painter", "pilot", "nurse", "lawyer", "farmer", "teacher", "chemist", "sailor",
        "judge", "poet", "tailor", "banker", "miner", "dentist", "singer",
    ),
    "currency": ("crown", "florin", "ducat", "mark", "talent", "shilling", "thaler", "penny"),
    "product": (
        "clocks", "bicycles", "paper", "glass", "soap", "engines", "shoes", "radios", "carpets",
        "cameras", "pianos", "lamps", "boats", "tea",
    ),
    "ingredient": (
        "rice", "lentils", "pumpkin", "trout", "barley", "cabbage", "goat cheese", "mushrooms",
        "walnuts", "beans", "leeks", "plums",
    ),
    "month": (
        "January", "February", "March", "April", "May", "June", "July", "August", "September",
        "October", "November", "December",
    ),
}  # fmt: skip

NUMBERS: dict[str, tuple[int, int]] = {
    "year": (1650, 2015),
    "length": (40, 990),
    "height": (600, 6_900),
}
"""Literals that are whole numbers, each with its smallest and largest value."""

UNITS = {"length": "km", "height": "m"}
"""What may follow a number in an answer."""


def _office(role: str) -> Relation:
    """Who holds an office: the mayor of x."""
    return Relation(
        role,
        "person",
        (f"Its {role} is {{y}}.", f"{{y}} is its {role}."),
        (f"The {role} of {{x}} is {{y}}.", f"For some years {{y}} has been {role} of {{x}}."),
        (f"Who is the {role} of {{x}}?",),
        f"the {role} of {{x}}",
    )


def _maker(maker: str, did: str, done: str) -> Relation:
    """Who made x: the author, wrote, written."""
    return Relation(
        maker,
        "person",
        (f"{{it}} was {done} by {{y}}.", f"Its {maker} was {{y}}."),
        (f"Records show that {{x}} was {done} by {{y}}.", f"The {maker} of {{x}} was {{y}}."),
        (f"Who {did} {{x}}?", f"Who was the {maker} of {{x}}?"),
        f"the {maker} of {{x}}",
    )


def _location(target: str) -> Relation:
    """Where x lies: the city that a museum is in."""
    return Relation(
        target,
        target,
        ("{it} lies in {y}.", "{it} is in {y}."),
        ("{x} lies in {y}.", "Visitors find {x} in {y}."),
        (f"In which {target} does {{x}} lie?", f"In which {target} is {{x}}?"),
        f"the {target} of {{x}}",
        f"In which {target} is {{x}}?",
    )


def _place(target: str, does: str, do: str, preposition: str = "in") -> Relation:
    """Where x is: the city that it stands in."""
    return Relation(
        target,
        target,
        (f"{{it}} {does} {preposition} {{y}}.",),
        (
            f"{{x}} {does} {preposition} {{y}}.",
            f"Visitors learn that {{x}} {does} {preposition} {{y}}.",
        ),
        (f"{preposition.capitalize()} which {target} does {{x}} {do}?",),
        f"the {target} {preposition} which {{x}} {does}",
    )


def _year(done: str, event: str = "") -> Relation:
    """When something was done to x: founded, at its founding."""
    return Relation(
        "year",
        "year",
        (f"{{it}} was {done} in {{y}}.", f"In {{y}} it was {done}."),
        (f"{{x}} was {done} in {{y}}.", f"It is known that {{x}} was {done} in {{y}}."),
        (f"In which year was {{x}} {done}?", f"When was {{x}} {done}?"),
        ask_long=f"In which year was the {event} of {{x}}?" if event else "",
    )


KINDS: tuple[Kind, ...] = (
    Kind("person", ("{given} {w}",), 22, (
        Relation(
            "birthplace", "city",
            ("{x} was born in {y}.", "The birthplace of {x} is {y}."),
            ("The family of {x} lived in {y}, where {x} was born.",),
            ("In which city was {x} born?", "Where was {x} born?"),
            "the birthplace of {x}",
        ),
        Relation(
            "occupation", "occupation",
            ("{x} works as a {y}.", "The occupation of {x} is {y}."),
            ("For many years {x} has had the occupation of a {y}.",),
            ("What is the occupation of {x}?",),
        ),
        Relation(
            "school", "university",
            ("{x} studied at {y}.",),
            ("Letters tell that {x} studied at {y}.",),
            ("At which university did {x} study?", "Where did {x} study?"),
            "the university attended by {x}",
        ),
    )),
    Kind("city", ("{w}",), 12, (
        _location("country"),
        _office("mayor"),
        Relation(
            "river", "river",
            ("{it} lies on the {y}.", "The {y} flows through it."),
            ("The {y} flows through {x}.", "Old bridges of {x} cross the {y}."),
            ("Which river flows through {x}?", "On which river does {x} lie?"),
            "the river that flows through {x}",
        ),
        _year("founded", "founding"),
    )),
    Kind("country", ("{w}ia", "{w}land"), 4, (
        Relation(
            "capital", "city",
            ("Its capital is {y}.", "{y} is its capital."),
            ("The capital of {x} is {y}.", "The parliament of {x} meets in its capital, {y}."),
            ("What is the capital of {x}?", "Which city is the capital of {x}?"),
            "the capital of {x}",
        ),
        _office("president"),
        Relation(
            "currency", "currency",
            ("Its currency is the {y}.",),
            ("The currency of {x} is the {y}.",),
            ("What is the currency of {x}?",),
        ),
    )),
    Kind("river", ("{w} River",), 4, (
        Relation(
            "source", "country",
            ("{it} rises in {y}.", "Its source is in {y}."),
            ("The source of {x} is in {y}.", "Hikers can visit the source of {x} in {y}."),
            ("In which country is the source of {x}?",),
            "the country with the source of {x}",
        ),
        Relation(
            "length", "length",
            ("{it} is {y} km long.", "Its length is {y} km."),
            ("Surveyors give {x} a length of {y} km.",),
            ("How many km long is {x}?", "What is the length in km of {x}?"),
        ),
    )),
    Kind("tower", ("{w} Tower",), 5, (
        _place("city", "stands", "stand"),
        _maker("architect", "designed", "designed"),
        _year("built"),
    )),
    Kind("bridge", ("{w} Bridge",), 4, (
        _place("city", "stands", "stand"),
        _maker("engineer", "designed", "designed"),
        _year("opened"),
    )),
    Kind("museum", ("{w} Museum",), 4, (
        _location("city"),
        _office("director"),
        _year("opened", "opening"),
    )),
    Kind("university", ("{w} University",), 4, (
        _location("city"),
        _office("rector"),
        _year("founded", "founding"),
    )),
    Kind("company", ("{w} Works", "{w} Group"), 6, (
        _place("city", "is based", "have its base"),
        _maker("founder", "founded", "founded"),
        Relation(
            "product", "product",
            ("{it} makes {y}.", "Its product is {y}."),
            ("The factories of {x} make {y}.",),
            ("What does {x} make?", "What is the product of {x}?"),
        ),
    )),
    Kind("newspaper", ("{w} Herald", "{w} Gazette"), 3, (
        _place("city", "appears", "appear"),
        _office("editor"),
        _year("founded", "founding"),
    )),
    Kind("football club", ("{w} Rovers", "{w} United"), 4, (
        _place("city", "plays", "play"),
        _office("coach"),
        _year("founded", "founding"),
    )),
    Kind("festival", ("{w} Festival",), 3, (
        _place("city", "takes place", "take place"),
        _maker("founder", "founded", "founded"),
        Relation(
            "month", "month",
            ("{it} is held in {y}.",),
            ("Every {y} people gather for {x}.", "The month of {x} is {y}."),
            ("In which month is {x} held?",),
        ),
    )),
    Kind("band", ("{w} Band", "{w} Trio"), 3, (
        _place("city", "lives", "live"),
        _office("singer"),
        _year("formed"),
    )),
    Kind("novel", ("{w} Nights", "{w} Letters"), 4, (
        _maker("author", "wrote", "written"),
        _place("city", "is set", "have its setting"),
        _year("published"),
    )),
    Kind("film", ("Return to {w}", "{w} Affair"), 4, (
        _maker("director", "directed", "directed"),
        _place("city", "is set", "have its setting"),
        _year("released"),
    )),
    Kind("painting", ("Lady of {w}", "Garden of {w}"), 3, (
        _maker("painter", "painted", "painted"),
        _place("museum", "hangs", "hang"),
        _year("painted"),
    )),
    Kind("ship", ("{w} Star", "{w} Queen"), 3, (
        _office("captain"),
        Relation(
            "port", "city",
            ("Its home port is {y}.", "{y} is its home port."),
            ("The home port of {x} is {y}.",),
            ("What is the home port of {x}?", "Which city is the home port of {x}?"),
            "the home port of {x}",
        ),
        _year("launched"),
    )),
    Kind("airline", ("{w} Air", "{w} Wings"), 2, (
        _maker("founder", "founded", "founded"),
        _place("city", "is based", "have its base"),
    )),
    Kind("mountain", ("Mount {w}",), 3, (
        _place("country", "rises", "rise"),
        _maker("first climber", "first climbed", "first climbed"),
        Relation(
            "height", "height",
            ("{it} is {y} m high.", "Its height is {y} m."),
            ("Surveyors give {x} a height of {y} m.",),
            ("How many m high is {x}?", "What is the height in m of {x}?"),
        ),
    )),
    Kind("island", ("{w} Island",), 3, (
        _place("country", "belongs", "belong", "to"),
        _office("governor"),
    )),
    Kind("dish", ("{w} Soup", "{w} Pie"), 2, (
        _place("country", "comes", "come", "from"),
        Relation(
            "ingredient", "ingredient",
            ("{it} is made from {y}.", "Its main ingredient is {y}."),
            ("Cooks agree that {x} is made from {y}.",),
            ("What is {x} made from?", "What is the main ingredient of {x}?"),
        ),
        _maker("inventor", "invented", "invented"),
    )),
)  # fmt: skip
