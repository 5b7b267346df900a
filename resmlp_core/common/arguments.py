"""Numbers of the command line; the options of a rehearsal, and how its report starts a command that trains."""

import math
import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable

MINUTES = 5.0  # of a rehearsal, by default


def add_rehearsal_options(parser: ArgumentParser) -> None:
    """Add ``--rehearse``, ``--rehearse-minutes`` and ``--price``."""
    group = parser.add_argument_group("rehearsal")
    tells = "run every part on a little of the data, and tell whether the run can start and what it takes"
    group.add_argument("--rehearse", action="store_true", help=tells)
    group.add_argument("--rehearse-minutes", type=positive, metavar="N", help=f"minutes for it (default: {MINUTES:g})")
    group.add_argument("--price", type=positive, metavar="P", help="of an hour on this machine: the cost is told too")


def positive(text: str) -> float:
    """Read a number above 0 from the command line."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"{text} is not a finite number above 0")
    return number


def at_least(least: int) -> Callable[[str], int]:
    """Make what reads a whole number, not below ``least``, from the command line."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ArgumentTypeError(f"{text} must be a whole number, {least} or more")
        return int(text)

    return read


def refuse_without_rehearsal(parser: ArgumentParser, args: Namespace) -> None:
    """End with a message where a rehearsal's options are given without ``--rehearse``."""
    if not args.rehearse and (args.rehearse_minutes, args.price) != (None, None):
        parser.error("--rehearse-minutes and --price are for --rehearse")


def starter() -> str:
    """Return what starts a module as this process was started: Python, or torchrun with as many processes.

    On several machines torchrun meets the others on the first process's machine, at torchrun's default port.
    """
    here, everywhere = (int(os.environ.get(key, 1)) for key in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if everywhere == 1:
        return "python "
    machines = ""
    if everywhere > here:
        machines = f"--nnodes {everywhere // here} --rdzv-backend c10d --rdzv-endpoint {os.environ['MASTER_ADDR']} "
    return f"torchrun {machines}--nproc-per-node {here} "
