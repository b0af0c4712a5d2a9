"""What is wrong with a tool call, in words for the model that made it.

The tools of an episode and those of the MCP server refuse a call in the same words.
"""

from collections.abc import Iterable
from typing import Any

from nanoscout.records import ToolSpec

_PYTHON_TYPES: dict[str, type] = {"string": str, "integer": int, "boolean": bool}


def unknown_tool(name: str, known: Iterable[str]) -> str:
    return f"There is no tool {_quoted(name)}. The tools are: {', '.join(known)}."


def complaint(args: dict[str, Any], spec: ToolSpec) -> str:
    """What is wrong with the arguments of a call; empty if nothing is."""
    properties = spec.parameters["properties"]
    for name in spec.parameters.get("required", []):
        if args.get(name) in (None, "") or not str(args[name]).strip():
            return f'{spec.name} needs "{name}".'
    for name, value in args.items():
        if name not in properties:
            return f"{spec.name} has no {_quoted(name)}; it takes: {', '.join(properties)}."
        wanted = properties[name]["type"]
        if wanted in _PYTHON_TYPES and type(value) is not _PYTHON_TYPES[wanted]:
            return f'"{name}" of {spec.name} must be of type {wanted}.'
    return ""


def _quoted(name: str) -> str:
    """What the model wrote, short enough not to fill its context."""
    return repr(name if len(name) <= 40 else f"{name[:40]}…")
