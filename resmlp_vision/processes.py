"""The processes that train or evaluate together."""

import os
from typing import Any

import torch
import torch.distributed as dist


def join_processes(device: str | None = None) -> torch.device:
    """Join the processes that torchrun started, or be the only one of its group.

    Args:
        device: where to compute; by default a GPU each, or the CPU where there is none.

    Returns:
        This process's device.
    """
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        alone: dict[str, Any] = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, **({} if "RANK" in os.environ else alone))
    return chosen
