"""Let ``--bf16`` and ``--memory-efficient-bf16`` train on a GPU or a CPU: fairseq takes them to ask for a TPU.

Reading the command line fairseq turns ``--tpu`` on for them, and without a TPU's library ends in an error. Its
trainer computes in bfloat16 on any device; of a CPU that emulates it, the user is told.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from fairseq import options

from resmlp_core.common.devices import emulates


def ask_for_a_tpu_by_name(parse_args_and_arch: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap fairseq's ``parse_args_and_arch`` so that only ``--tpu`` means a TPU."""

    @wraps(parse_args_and_arch)
    def parse(parser: Any, input_args: Sequence[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        parsed = parse_args_and_arch(parser, input_args, *args, **kwargs)
        namespace = parsed[0] if isinstance(parsed, tuple) else parsed  # with what it did not know beside it
        if getattr(namespace, "bf16", False):
            namespace.tpu = "--tpu" in (sys.argv if input_args is None else input_args)
            on_cpu = namespace.cpu or not (namespace.tpu or torch.cuda.is_available())
            if on_cpu and emulates("bfloat16"):
                warnings.warn("--bf16 is emulated by this processor: float32 is faster", stacklevel=2)
        return parsed

    return parse


def install() -> None:
    """Let every program of fairseq's that reads a command line take ``--bf16`` for a number format."""
    options.parse_args_and_arch = ask_for_a_tpu_by_name(options.parse_args_and_arch)
