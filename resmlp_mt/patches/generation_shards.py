"""Let fairseq-generate translate one part of several: it takes --num-shards and --shard-id, and looks at neither.

So each of N machines translates everything. What it looks at are the number and rank of a training's processes.
"""

import argparse
from collections.abc import Callable
from functools import wraps
from typing import Any

from fairseq import options


def settle_shards(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap fairseq's ``parse_args_and_arch`` so that the two options reach the loader of what is to be translated."""

    @wraps(parse)
    def parsed(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        result = parse(parser, *args, **kwargs)
        found = result[0] if isinstance(result, tuple) else result  # with what it did not know
        shards, shard = getattr(found, "num_shards", 1), getattr(found, "shard_id", 0)
        if hasattr(found, "beam") and (shards, shard) != (1, 0):
            if hasattr(found, "buffer_size"):
                parser.error(
                    "--num-shards and --shard-id are not for fairseq-interactive, which translates all it reads"
                )
            if shards < 1:
                parser.error(f"--num-shards {shards} must be at least 1")
            if not 0 <= shard < shards:
                parser.error(f"--shard-id {shard} must be from 0 to {shards - 1}, one less than --num-shards")
            found.distributed_world_size, found.distributed_rank = shards, shard
        return result

    return parsed


def install() -> None:
    """Make every program of fairseq's read its command line so."""
    options.parse_args_and_arch = settle_shards(options.parse_args_and_arch)
