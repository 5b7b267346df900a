"""Refuse options that fairseq would fail at later: before it starts any process, in one line that says what works."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from typing import Any

import torch
from fairseq.distributed import utils as distributed

from resmlp_mt.patches.command_line import after_parsing

# Fairseq's optimisers that move each number by its own gradient, so that tensors may be joined to one or cut in pieces,
# and those that compute in float32 on parameters of half precision.
FLAT = {"adadelta", "adam", "adamax", "cpu_adam", "nag", "sgd"}
IN_HALF = {"adafactor", "adam", "adamax", "cpu_adam", "nag"}


def reason_against(cfg: Any) -> str | None:
    """Say why fairseq cannot train with these options and what it can train with; None if it can."""
    group, common, optimiser = cfg.distributed_training, cfg.common, cfg.optimizer._name
    on_cpu = common.cpu or not torch.cuda.is_available()
    flat, in_half = (optimiser in (*known, "composite") for known in (FLAT, IN_HALF))  # a composite one's parts decide
    for wish in ("memory_efficient_fp16", "memory_efficient_bf16"):
        if common[wish] and not in_half:
            option, instead = (f"--{name.replace('_', '-')}" for name in (wish, wish.removeprefix("memory_efficient_")))
            works = ", ".join(sorted(IN_HALF))
            return f"{option} cannot train with --optimizer {optimiser}, only with {works}: give {instead}"
    flattens = common.fp16 and not (common.fp16_no_flatten_grads or common.memory_efficient_fp16)
    if flattens and (on_cpu or not flat):
        return f"--fp16 {'on a CPU' if flat else f'with --optimizer {optimiser}'} needs --fp16-no-flatten-grads"
    if group.ddp_backend == "fully_sharded" and not flat:
        return (
            f"--ddp-backend fully_sharded cannot train with --optimizer {optimiser}, only with "
            f"{', '.join(sorted(FLAT))}: give --ddp-backend pytorch_ddp"
        )
    if find_spec("fairscale") is None:
        if group.ddp_backend in ("fully_sharded", "slowmo"):
            return (
                f"--ddp-backend {group.ddp_backend} needs fairscale, which is not installed: give pytorch_ddp or "
                "legacy_ddp"
            )
        if group.zero_sharding != "none":
            return f"--zero-sharding {group.zero_sharding} needs fairscale, which is not installed: leave it out"
    return None


def refuse_first(call_main: Callable[..., None]) -> Callable[..., None]:
    """Wrap fairseq's ``call_main``, which starts the processes of each of its programs."""

    @wraps(call_main)
    def start(cfg: Any, main: Callable[..., None], **kwargs: Any) -> None:
        if hasattr(cfg.get("optimizer"), "_name") and (reason := reason_against(cfg)):  # else it does not train
            raise ValueError(reason)
        call_main(cfg, main, **kwargs)

    return start


def refuse_translating(parser: ArgumentParser, options: Namespace, line: Sequence[str]) -> None:
    """End with a message where fairseq's programs that translate cannot do so with these options."""
    if getattr(options, "constraints", None) and not hasattr(options, "buffer_size"):
        parser.error("--constraints is for fairseq-interactive, which reads them behind each sentence")
    for wish in ("print_step", "retain_iter_history"):
        if getattr(options, wish, False) and options.task != "translation_lev":
            option = "--" + wish.replace("_", "-")
            parser.error(
                f"{option} is for models that refine a translation step by step, those of --task translation_lev"
            )


def install() -> None:
    """Let nothing start that fairseq cannot do."""
    after_parsing(refuse_translating)
    distributed.call_main = refuse_first(distributed.call_main)
