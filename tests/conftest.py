"""One thread a process: tiny models gain nothing from more, and lose a lot where a core is busy."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
