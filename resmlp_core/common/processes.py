"""A process that ends with the one that started it."""

import os
import signal
import threading


def end_with_parent() -> None:
    """End this process and its children as soon as its standard input closes, a pipe that its parent holds.

    A killed parent thus leaves nobody writing to a folder that the next command works in. It must lead a process group.
    """

    def follow() -> None:
        os.read(0, 1)  # not by sys.stdin: children that are forks would inherit its lock locked
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()
