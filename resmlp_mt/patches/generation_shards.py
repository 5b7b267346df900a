"""Let fairseq-generate translate one part of several: it takes --num-shards and --shard-id, and looks at neither.

So each of N machines translates everything. What it looks at are the number and rank of a training's processes.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from resmlp_mt.patches.command_line import after_parsing


def settle_shards(parser: ArgumentParser, options: Namespace, line: Sequence[str]) -> None:
    """Let the two options reach the loader of what is to be translated, or end with a message."""
    shards, shard = getattr(options, "num_shards", 1), getattr(options, "shard_id", 0)
    if hasattr(options, "beam") and (shards, shard) != (1, 0):
        if hasattr(options, "buffer_size"):
            parser.error("--num-shards and --shard-id are not for fairseq-interactive, which translates all it reads")
        if shards < 1:
            parser.error(f"--num-shards {shards} must be at least 1")
        if not 0 <= shard < shards:
            parser.error(f"--shard-id {shard} must be from 0 to {shards - 1}, one less than --num-shards")
        options.distributed_world_size, options.distributed_rank = shards, shard


def install() -> None:
    """Make every program of fairseq's read its command line so."""
    after_parsing(settle_shards)
