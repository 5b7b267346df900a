"""What several command lines read alike."""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace


def positive(text: str) -> float:
    """Read a number above 0 from the command line."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"{text} is not a finite number above 0")
    return number


def refuse_without_rehearsal(parser: ArgumentParser, args: Namespace) -> None:
    """End with a message where the options of a rehearsal are given and none is asked for."""
    if not args.rehearse and (args.rehearse_minutes, args.price) != (None, None):
        parser.error("--rehearse-minutes and --price are for --rehearse")
