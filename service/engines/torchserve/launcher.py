"""Becomes the program it is given, after arranging to be killed when the process that started it dies.

Run as ``python -I -S launcher.py PARENT_PID PROGRAM ARGUMENT...``. A program of its own because code between fork and
exec is not safe in a process with threads, and the gateway has many.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arrange the signal and execute the program; does not return."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # The parent died before the signal was arranged.
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
