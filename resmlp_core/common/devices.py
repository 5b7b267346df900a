"""What computes: its name, its memory and its cores, and how much of these a process may use."""

import math
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from resmlp_core.common.control_groups import OWN, ROOT, control_groups

SPARE = 0.1  # of the memory, which a run shall leave
# Flags that Linux lists for a processor which multiplies in a number format; the last of each is ARM's.
HALF = {"bfloat16": "avx512_bf16|amx_bf16|bf16", "float16": "avx512_fp16|amx_fp16|asimdhp"}


@dataclass(frozen=True)
class Device:
    """A GPU, or the cores of a CPU.

    Args:
        name: the maker's name for it; of a CPU with the number of threads.
        memory: in bytes: all that a GPU has, or what the machine has available.
        tf32: whether it multiplies in TF32.
        bf16: whether it multiplies in bfloat16.
    """

    name: str
    memory: int
    tf32: bool
    bf16: bool

    def __str__(self) -> str:
        has = [name for name, it_has in (("TF32", self.tf32), ("bf16", self.bf16)) if it_has]
        return f"{self.name}, {gigabytes(self.memory)}, {' and '.join(has) or 'neither TF32 nor bf16'}"


def gigabytes(size: float) -> str:
    """Write a number of bytes as one reads it."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def find_devices(cuda: bool) -> list[Device]:
    """List what trains: the GPUs that this process sees, or the CPU.

    Args:
        cuda: whether GPUs train.
    """
    if cuda:
        return [_gpu(i) for i in range(torch.cuda.device_count())]
    threads = torch.get_num_threads()
    cores = f"{threads} thread{'s' * (threads > 1)} of {processor()}"
    return [Device(cores, available_memory(), False, not emulates("bfloat16"))]


@cache
def emulates(dtype: str) -> bool:
    """Whether this machine's processor has no instructions for products in a number format.

    An emulated product is slower than one in float32: on an Intel Xeon with AVX-512 and neither format a training takes
    three times as long in bfloat16 and fifty times as long in float16.

    Args:
        dtype: such as ``bfloat16``.

    Returns:
        Whether that is known; of a system other than Linux it is not.
    """
    flags = re.search(r"^(?:flags|Features)\s*:.*$", _read("/proc/cpuinfo"), re.MULTILINE)
    return dtype in HALF and flags is not None and not re.search(rf"\b({HALF[dtype]})\b", flags[0])


def processor() -> str:
    """Name this machine's processor."""
    name = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    return name[1] if name else platform.processor() or "a CPU"


def _gpu(i: int) -> Device:
    found = torch.cuda.get_device_properties(i)
    return Device(found.name, found.total_memory, found.major >= 8, found.major >= 8)


def available_memory(root: Path = ROOT, own: Path = OWN) -> int:
    """Return how many bytes the machine could give to this process, without swapping and within its control groups.

    What a control group holds of files and does not use counts as free: the kernel takes it back when asked for more.

    Args:
        root: where the control groups are, of version 2 or 1.
        own: which of them are this process's; those that hold them count too.
    """
    available = re.search(r"MemAvailable:\s*(\d+) kB", _read("/proc/meminfo"))
    found = 1024 * int(available[1]) if available else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for controller, most, used, idle in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in control_groups(controller, own):
            folder = root / controller / group
            limit, usage = _read(folder / most).strip(), _read(folder / used).strip()
            files = re.search(rf"^{idle} (\d+)", _read(folder / "memory.stat"), re.MULTILINE)
            if limit.isdigit() and usage.isdigit():
                found = min(found, int(limit) - int(usage) + (int(files[1]) if files else 0))
    return found


def available_cores(processes: int = 1) -> int:
    """Return how many cores this process can have.

    Args:
        processes: how many of the machine's share the cores.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, granted_cores())) // processes)


def granted_cores(root: Path = ROOT, own: Path = OWN) -> float:
    """Return how many cores' time a container or a service is granted; infinity where no limit is set.

    Args:
        root: where the control groups are, of version 2 or 1.
        own: which of version 2 is this process's; those that hold it count too.
    """
    limits = [[root / group / "cpu.max"] for group in control_groups(own=own)]
    limits.append([root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")])
    granted = math.inf
    for files in limits:
        found = " ".join(map(_read, files)).split()
        if len(found) == 2 and found[0] not in ("max", "-1"):
            granted = min(granted, int(found[0]) / int(found[1]))
    return granted


def process_memory(field: str) -> int:
    """Return the bytes that Linux's status of this process has in a field, such as ``VmRSS``; 0 where it has none."""
    found = re.search(rf"{field}:\s*(\d+) kB", _read("/proc/self/status"))
    return 1024 * int(found[1]) if found else 0


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def interconnect_speed() -> float | None:
    """Measure how many gigabytes a second go from one GPU to the next; None for fewer than two, or full ones."""
    if torch.cuda.device_count() < 2:
        return None
    speed = None
    with suppress(torch.OutOfMemoryError):
        speed = _copying_speed()
    torch.cuda.empty_cache()
    return speed


def _copying_speed() -> float:
    here, there = (torch.zeros(2**26, device=f"cuda:{i}") for i in (0, 1))  # 256 MiB
    there.copy_(here)
    torch.cuda.synchronize(here.device)
    started = time.perf_counter()
    for _ in range(4):
        there.copy_(here)
    torch.cuda.synchronize(there.device)
    return 4 * here.nbytes / (time.perf_counter() - started) / 1e9


def wait_for_device() -> None:
    """Wait until the GPU has done what it was asked for; there is nothing to wait for on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def usable_memory(spare: float = SPARE, processes: int = 1) -> int:
    """Return how many bytes this process may use on a CPU if a share of what is available is to be left.

    Args:
        spare: the share that is left.
        processes: how many share the rest.
    """
    return int((1 - spare) * (available_memory() / processes + process_memory("VmRSS")))


def limit_memory(cuda: bool, spare: float = SPARE, processes: int = 1) -> None:
    """Let this process run out of memory before its machine does: what needs more raises an error that can be caught.

    On a CPU the limit is one of data (RLIMIT_DATA), and the kernel is told to end this process before any other.

    Args:
        cuda: whether it trains on a GPU.
        spare: the share that is left.
        processes: how many of the machine's share the rest of a CPU's memory.
    """
    if cuda:
        torch.cuda.set_per_process_memory_fraction(float(1 - spare))
        return
    import resource  # not on Windows

    used, resident = process_memory("VmData"), process_memory("VmRSS")
    if used and resident:  # most of what is mapped and not resident never will be: it stays out of the sum
        most = used - resident + usable_memory(spare, processes)
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")


@contextmanager
def limited_memory(cuda: bool, processes: int = 1) -> Iterator[None]:
    """Limit memory while the block runs, as ``limit_memory`` does with these arguments."""
    if cuda:
        limit_memory(cuda)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    import resource  # not on Windows

    limit, adjustment = resource.getrlimit(resource.RLIMIT_DATA), _read("/proc/self/oom_score_adj")
    limit_memory(cuda, processes=processes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limit)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(adjustment, encoding="utf-8")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory, on a GPU or a CPU."""
    short = (
        "out of memory",
        "can't allocate memory",
        "cannot allocate memory",
        "bad_alloc",
        "could not create a primitive",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(what in str(error).lower() for what in short)


def reset_peak_memory(cuda: bool) -> None:
    """Let ``peak_memory`` begin anew; on a CPU it is that of the whole process."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()


def peak_memory(cuda: bool) -> int:
    """Return the most bytes that this process has used: of its GPU, else of the machine."""
    if cuda:
        return torch.cuda.max_memory_reserved()
    return process_memory("VmHWM")
