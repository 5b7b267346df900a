"""Let ``--bf16`` and ``--memory-efficient-bf16`` train on a GPU or a CPU: fairseq takes them to ask for a TPU.

Reading the command line fairseq turns ``--tpu`` on for them, and without a TPU's library ends in an error. Its
trainer computes in bfloat16 on any device; of a CPU that emulates it, the user is told.
"""

import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import torch

from resmlp_core.common.devices import emulates
from resmlp_mt.patches.command_line import after_parsing


def ask_for_a_tpu_by_name(parser: ArgumentParser, options: Namespace, line: Sequence[str]) -> None:
    """Let only ``--tpu`` mean a TPU."""
    if getattr(options, "bf16", False):
        options.tpu = "--tpu" in line
        on_cpu = options.cpu or not (options.tpu or torch.cuda.is_available())
        if on_cpu and emulates("bfloat16"):
            warnings.warn("--bf16 is emulated by this processor: float32 is faster", stacklevel=3)


def install() -> None:
    """Let every program of fairseq's that reads a command line take ``--bf16`` for a number format."""
    after_parsing(ask_for_a_tpu_by_name)
