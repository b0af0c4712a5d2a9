"""Runs a command for as long as whoever started it lives: `python leash.py COMMAND...`

Its standard input is a pipe that nobody writes to. It ends when the other end is gone, whatever
ended that (SIGKILL, too), and then the command is ended. Imports nothing that takes time.
"""

import os
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end_with_the_starter() -> None:
        os.read(0, 1)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()

    threading.Thread(target=end_with_the_starter, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
