"""Whether an OpenAI-compatible endpoint is up, and which models it has: asked before any work."""

import os
from collections.abc import Sequence
from typing import Any

import httpx2

from nanoscout.errors import UserError

TIMEOUT = httpx2.Timeout(30.0, connect=10.0)


def served_models(url: str, key_variable: str = "") -> list[str]:
    """The names that `GET {url}/models` lists. Raises UserError where there is no such endpoint."""
    headers = {}
    if key_variable:
        key = os.environ.get(key_variable, "").strip()
        if not key:
            raise UserError(f"the environment variable {key_variable} is empty")
        headers["Authorization"] = f"Bearer {key}"
    try:
        response = httpx2.get(f"{url.rstrip('/')}/models", headers=headers, timeout=TIMEOUT)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UserError(
            f"endpoint {url}: cannot be reached ({str(error) or type(error).__name__}); start it, "
            "or mend --endpoint (it ends in /v1)"
        ) from None
    try:
        listed: Any = response.json()
        return [str(model["id"]) for model in listed["data"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(
            f"endpoint {url}: its list of models can't be read (status {response.status_code}); "
            "is this the address of an OpenAI-compatible endpoint (it ends in /v1)?"
        ) from None


def check_endpoint(url: str, models: Sequence[str], key_variable: str = "") -> None:
    """Raises UserError unless the endpoint is up and has all of the models."""
    there = served_models(url, key_variable)
    for model in models:
        if model not in there:
            raise UserError(
                f"endpoint {url} has no model {model!r}; it has {', '.join(there) or 'none'}"
            )
