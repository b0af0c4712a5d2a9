"""Recipes as files: TOML in, with overrides, and TOML out.

`load_recipe` refuses what it does not know: an unknown key is an error that names the nearest known
one. `dump_recipe` writes the resolved recipe (defaults filled in) as TOML that loads back to an
equal recipe.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from nanoscout.errors import UserError
from nanoscout.recipe import Recipe


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe; raise UserError with one line for whatever is wrong with it."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: its brackets are nested too deeply") from None
    for override in overrides or []:
        _apply_override(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as TOML; absent optional values are left out."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _apply_override(data: dict[str, Any], override: str) -> None:
    """Set `a.b.0.c=value` in `data`; the value is TOML, or a plain string where it is not."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: write it as key=value, for example seed=1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text
    *parents, last = key.strip().split(".")
    node: Any = data
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else _item(node, parent, key)
    if isinstance(node, dict):
        node[last] = value
    else:
        _item(node, last, key)
        node[int(last)] = value


def _item(node: Any, index: str, key: str) -> Any:
    if not isinstance(node, list) or not index.isdecimal() or int(index) >= len(node):
        raise UserError(f"--set {key}: there is no '{index}' to set")
    return node[int(index)]


def _explain(error: ValidationError) -> str:
    """The first fault in words, with the nearest known key for an unknown one."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    known = _known_keys(fault["loc"][:-1])
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.0)
    return f"unknown key '{where}'; did you mean '{near[0]}'?" if near else f"unknown key '{where}'"


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model at `loc` (an error's path through the recipe)."""
    model: type[BaseModel] = Recipe
    for part in loc:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _model_in(inner):
            return found
    return None
