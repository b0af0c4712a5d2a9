"""One thread for the arithmetic of a search, so that it takes one core and not the learner's.

torch's number of threads is each thread's own from its first use on, but setting it also sets what
later threads begin with. So a thread of our own is set to one core, and what later ones
begin with is put back. Whoever asks waits for the answer: what happens when does not depend on the
scheduler, and a resumed run stays the same run.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Thread
from typing import TypeVar

import torch

T = TypeVar("T")


def on_one_core(work: Callable[[], T]) -> T:
    """What `work` returns or raises, done in the one thread, after what it was given before."""
    return _thread().submit(work).result()


@cache
def _thread() -> ThreadPoolExecutor:
    usual = torch.get_num_threads()
    thread = ThreadPoolExecutor(1, thread_name_prefix="search")
    thread.submit(torch.get_num_threads).result()  # from now on its number is its own
    thread.submit(torch.set_num_threads, 1).result()
    restoring = Thread(target=torch.set_num_threads, args=(usual,))
    restoring.start()
    restoring.join()
    return thread
