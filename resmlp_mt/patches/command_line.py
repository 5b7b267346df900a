"""Look at the options of fairseq's programs when they have read their command lines, as several patches do."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from fairseq import options


def after_parsing(settle: Callable[[ArgumentParser, Namespace, Sequence[str]], None]) -> None:
    """Let every program of fairseq's that reads a command line call ``settle`` with its parser, options and line."""
    parse = options.parse_args_and_arch

    @wraps(parse)
    def parsed(parser: ArgumentParser, input_args: Sequence[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        result = parse(parser, input_args, *args, **kwargs)
        found = result[0] if isinstance(result, tuple) else result  # with what it did not know beside it
        settle(parser, found, sys.argv if input_args is None else input_args)
        return result

    options.parse_args_and_arch = parsed
