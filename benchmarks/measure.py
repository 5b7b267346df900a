"""What the benchmarks share: contenders measured in turns on the same work, peak memory, a table, a JSON file."""

import resmlp_core  # isort: skip  # noqa: F401  before PyTorch, whose threads then wait as those of commands do

import argparse
import ctypes
import logging
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

from resmlp_core.common.arguments import at_least
from resmlp_core.common.devices import process_memory, processor, wait_for_device
from resmlp_core.common.files import write_json

# Importing fairseq configures logging, down to DEBUG, unless that is done already.
logging.basicConfig(level=logging.WARNING)
warnings.simplefilter("ignore")

OUT = Path("build/benchmarks")
Contenders = Mapping[str, Callable[[], object]]


def options(about: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that all benchmarks have; a module's docstring says what it is about."""
    head, _, details = (about or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=head, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=at_least(1), default=torch.get_num_threads(), help="of the CPU (default: all)"
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, help="how often each contender has its turn (default: 5)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the JSON file (default: {OUT})")
    return parser


def in_turns(contenders: Contenders, rounds: int) -> dict[str, list[float]]:
    """Time each contender once a round, after one turn to warm up.

    Returns:
        Seconds by contender, one number a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            wait_for_device()
            started = time.perf_counter()
            call()
            wait_for_device()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def peak_memory(call: Callable[[], object], device: str) -> int:
    """Bytes that a call needs at its peak beyond what was held before it: of the GPU, or resident ones (Linux)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # else a call is lent what earlier ones have freed
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = process_memory("VmRSS")
    call()
    return process_memory("VmHWM") - before


def summarise(
    case: Mapping[str, Any], contenders: Contenders, units: float, peer: str, rounds: int, device: str
) -> list[dict[str, Any]]:
    """Measure contenders on one piece of work.

    Args:
        case: what the work is, for the table.
        contenders: one call of each does the work once.
        units: images, words or tokens in the work.
        peer: the contender that the others are compared with.
        rounds: turns of each.
        device: ``cpu`` or ``cuda``.

    Returns:
        A row for each: units a second by the median of the rounds; the ratio to the peer's speed, as the median,
        least and greatest of the rounds' own ratios; peak memory in bytes.
    """
    seconds = in_turns(contenders, rounds)
    return [row_of(case, name, seconds, units, peer, peak_memory(call, device)) for name, call in contenders.items()]


def row_of(
    case: Mapping[str, Any], name: str, seconds: Mapping[str, list[float]], units: float, peer: str, memory: int
) -> dict[str, Any]:
    """Make a contender's row as ``summarise`` describes it, and print it."""
    ratios = sorted(theirs / ours for theirs, ours in zip(seconds[peer], seconds[name], strict=True))
    row = {
        "contender": name,
        "per_second": units / median(seconds[name]),
        "ratio": median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "peak_memory_bytes": memory,
        "seconds": seconds[name],
    }
    work = "  ".join(f"{key} {value}" for key, value in case.items())
    print(
        f"{work:<44}{name:<32}{row['per_second']:>12,.1f}/s"
        f"{row['ratio']:>8.2f} × ({ratios[0]:.2f} to {ratios[-1]:.2f}){memory / 1e6:>10,.0f} MB",
        flush=True,
    )
    return {**case, **row}


def save(args: argparse.Namespace, rows: Sequence[Mapping[str, Any]], **versions: str) -> None:
    """Write the rows, what they were measured on and the peers' versions, in a file of the running script's name."""
    path = args.out / f"{Path(sys.argv[0]).stem}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    allocator = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")]
    machine = {
        "command": shlex.join([*allocator, "python", *sys.argv]),
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else processor(),
        "threads": args.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__} | versions,
    }
    write_json(path, {"machine": machine, "rows": list(rows)})
    print(f"{path} has all of it")
