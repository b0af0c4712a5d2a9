"""How a peer's process talks to the benchmark: a job a line on its stdin, an answer a line back.

A peer runs in its own environment, so this file needs the standard library alone. Whatever
libraries print goes to stderr. The first line back is what `prepare` says of itself.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Job = dict[str, Any]


def serve(prepare: Callable[[], tuple[Job, Callable[[Job], Job]]]) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    about, work = prepare()
    print(json.dumps(about), file=answers)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), file=answers)
