"""Let several processes train without a GPU: fairseq counts a machine's GPUs to know how many it may start.

With ``--cpu --distributed-world-size 2`` it starts none, or ends in an AssertionError, under torchrun in a division by
zero; and its defaults, NCCL and PyTorch's DistributedDataParallel with a GPU's number, are for GPUs only.
"""

import os
import socket
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from fairseq.distributed import utils as distributed

TORCHRUN = {"MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"}


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def start_on_cpus(call_main: Callable[..., None]) -> Callable[..., None]:
    """Wrap fairseq's ``call_main``, which starts the processes of each of its programs."""

    @wraps(call_main)
    def start(cfg: Any, main: Callable[..., None], **kwargs: Any) -> None:
        group = cfg.distributed_training
        if cfg.common.tpu or (torch.cuda.is_available() and not cfg.common.cpu):
            return call_main(cfg, main, **kwargs)
        if group.distributed_backend == "nccl":
            group.distributed_backend = "gloo"
        if group.ddp_backend in ("c10d", "pytorch_ddp"):
            group.ddp_backend = "legacy_ddp"
        if group.distributed_init_method is None:
            if os.environ.keys() >= TORCHRUN and int(os.environ["WORLD_SIZE"]) > 1:
                group.distributed_init_method, group.distributed_no_spawn = "env://", True
                group.distributed_rank = int(os.environ["RANK"])
                group.distributed_world_size = int(os.environ["WORLD_SIZE"])
            elif group.distributed_world_size > 1:
                group.distributed_init_method = f"tcp://localhost:{free_port()}"
        if group.distributed_init_method is None or group.distributed_no_spawn:
            return call_main(cfg, main, **kwargs)
        first, group.distributed_rank = group.distributed_rank, None  # each process finds its own, from the first
        arguments = (main, cfg, {**kwargs, "start_rank": first})
        torch.multiprocessing.spawn(distributed.distributed_main, arguments, group.distributed_world_size - first)

    return start


def install() -> None:
    """Let fairseq's programs start as many processes without GPUs as they are asked for."""
    distributed.call_main = start_on_cpus(distributed.call_main)
