"""robots.txt: which of its pages a site wants no robot to read (RFC 9309).

Own code, because the standard library's parser ignores wildcards, and the better one in the field
can be brought to a standstill by a hostile file. Here time and memory grow with the file's size
and no faster.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote

MAX_BYTES = 512 * 1024
"""What is read of a robots.txt; the RFC asks for at least 500 KiB."""

_TOKEN = re.compile(r"[\w-]*")
_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_NEED_NO_ESCAPE = re.compile(r"[A-Za-z0-9._~-]")


@dataclass(frozen=True)
class Rule:
    allow: bool
    pattern: str
    """How a path begins; `*` stands for anything, and `$` at the end for the path's end."""


def rules_for(text: str, agent: str) -> list[Rule]:
    """The rules for a robot, or those for all (`*`) where the file has none of its own."""
    agent = agent.lower()
    rules: dict[str, list[Rule]] = {}
    group: set[str] = set()
    in_rules = True
    for line in text.splitlines():
        field, _, value = line.partition("#")[0].partition(":")
        field, value = field.strip().lower(), value.strip()
        if field == "user-agent":
            if in_rules:
                group, in_rules = set(), False
            name = value if value == "*" else _TOKEN.match(value)[0].lower()  # type: ignore[index]
            if name in (agent, "*"):
                group.add(name)
                rules.setdefault(name, [])
        elif field in ("allow", "disallow"):
            in_rules = True
            if group and (pattern := _normal(value)):
                for name in group:
                    rules[name].append(Rule(field == "allow", pattern))
    return rules.get(agent, rules.get("*", []))


def may_read(rules: list[Rule], path: str) -> bool:
    """Whether the longest rule that fits a path (with its query) allows it; of two, Allow wins."""
    path = _normal(path)
    fitting = [(len(rule.pattern), rule.allow) for rule in rules if _fits(rule.pattern, path)]
    return max(fitting, default=(0, True))[1]


def _fits(pattern: str, path: str) -> bool:
    begin, *middle = pattern.removesuffix("$").split("*")
    if not path.startswith(begin):
        return False
    if pattern.endswith("$"):
        if not middle:
            return path == begin
        end = middle.pop()
        if len(begin) + len(end) > len(path) or not path.endswith(end):
            return False
        path = path.removesuffix(end)
    place = len(begin)
    for piece in middle:
        place = path.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    return True


def _normal(path: str) -> str:
    """One spelling of a path, whatever of it was percent-encoded."""
    escaped = quote(path, safe="/%!$&'()*+,;=:@?[]", errors="replace")
    return _ESCAPED.sub(_plain_or_upper, escaped)


def _plain_or_upper(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if _NEED_NO_ESCAPE.fullmatch(character) else escape[0].upper()
