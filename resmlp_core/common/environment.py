"""How C libraries wait, keep memory and send nothing. It is imported before PyTorch, whose OpenMP reads it once.

A user's own setting of the variables that are named here wins.
"""

import ctypes
import os
import re
import time

PROCESSORS, LOAD = "/proc/cpuinfo", "/proc/loadavg"
# How often a thread of OpenMP spins at a barrier before it sleeps. By default it spins for milliseconds, for which it
# keeps its core from a thread that has work to do, where other processes leave too few cores. On an AMD EPYC waking was
# measured to be slow: there a thread never sleeps so early on a quiet machine, and at once beside other work.
BY_DEFAULT, BRIEFLY, NEVER = "300000", "10000", "0"
# How many products oneDNN keeps prepared, one for each shape. Its default is 1,024, but batches of text seldom have a
# shape twice, save in the layers of one update. In bfloat16 1,024 filled 12 GB in 300 updates, 64 half of that.
SHAPES = "64"


def spins(processors: str = PROCESSORS, load: str = LOAD) -> str:
    """Return how often a thread should spin on this machine, as busy as it is now.

    Args:
        processors: the file in which Linux describes them.
        load: the file in which it tells how many threads run.
    """
    if "AuthenticAMD" not in beginning(processors):
        return BRIEFLY
    return NEVER if is_busy(load) else BY_DEFAULT


def is_busy(load: str = LOAD) -> bool:
    """Whether others run on cores that this process may use: they leave it fewer, in each of five looks."""
    spare = (os.cpu_count() or 1) - len(os.sched_getaffinity(0))
    for _ in range(5):
        running = re.search(r"(\d+)/", beginning(load))
        if running is None or int(running[1]) - 1 <= spare:  # one of them is this thread
            return False
        time.sleep(0.002)
    return True


def beginning(path: str) -> str:
    """Return the first lines of a file, nothing if there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(200)
    except OSError:
        return ""


def bound_spinning() -> None:
    """Bound how long a thread of OpenMP spins, in this process if PyTorch is not loaded yet, and in its children."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = spins()


def forget_shapes() -> None:
    """Bound how many shapes oneDNN keeps, in this process if it has multiplied none yet, and in its children."""
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY")
    if not os.environ.keys() & set(names):
        os.environ[names[0]] = SHAPES


def keep_memory(most: int = -1) -> None:
    """Let the C library keep what an update on a CPU frees for the next one; where it is not glibc, do nothing.

    By default the hundred megabytes of an update's logits go back to the kernel, which then hands them out again page
    by page, zeroed.

    Args:
        most: bytes that are kept, 32 MB or more, and of each piece half of them at most; all by default.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
        mallopt(M_TRIM_THRESHOLD, most)
        mallopt(*((M_MMAP_MAX, 0) if most < 0 else (M_MMAP_THRESHOLD, most // 2)))


def send_nothing() -> None:
    """Let ONNX Runtime send no reports of its use, for which it keeps files in the home folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


bound_spinning()
forget_shapes()
send_nothing()
