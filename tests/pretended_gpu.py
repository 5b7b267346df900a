"""A GPU that is pretended, for tests on machines without: tensors that say they are on it, computed on the CPU.

PyTorch takes such a tensor for one on CUDA: its device, its autocast, its refusal to become an array. Two things are
watched that a CPU forgives: an operation on tensors of both devices, which is an error, and what makes a CPU wait for
a GPU, which is counted by the code of ours that asks for it. Speed, memory, NCCL and rounding are a real GPU's to show.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map, tree_map_only

PYTORCH = "2.15"  # whose private names serve here
GPU = torch.device("cuda", 0)
OURS = ("resmlp_core", "resmlp_mt", "resmlp_vision")
WAITING = {  # operations whose result a CPU waits for
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"),
    *("unique_consecutive", "repeat_interleave"),
}
COPYING = {"_to_copy", "copy_", "_foreach_copy_", "index", "index_put_", "index_put", "_index_put_impl_"}


class OnGPU(torch.Tensor):
    """A tensor that says it is on the GPU; ``values`` are on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "OnGPU":
        return torch.Tensor._make_wrapper_subclass(
            cls, values.size(), values.stride(), values.storage_offset(), dtype=values.dtype, device=GPU
        )

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({self.values!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:  # saved as on the CPU
        return self.values.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {}, Counter())


class Watch(TorchDispatchMode):
    """Computes what is on the GPU, and counts in ``waits`` what makes the CPU wait, by the function of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {}, self.waits)


def compute(func: Any, args: Any, kwargs: dict[str, Any], waits: Counter[str]) -> Any:
    """Compute an operation where its tensors are, or refuse it as CUDA would."""
    found: list[torch.Tensor] = []
    tree_map_only(torch.Tensor, found.append, (args, kwargs))
    gpu = [tensor for tensor in found if isinstance(tensor, OnGPU)]
    name = func.__name__.split(".")[0]
    device = kwargs.get("device")
    target = torch.device(device).type if device is not None else None
    if not gpu and target != "cuda":
        return func(*args, **kwargs)
    if gpu and name not in COPYING and (cpu := [t for t in found if not isinstance(t, OnGPU) and t.dim()]):
        raise RuntimeError(f"{func} of tensors on the GPU and on the CPU, the latter {[tuple(t.shape) for t in cpu]}")
    to_cpu = bool(gpu) and (target == "cpu" or (name == "copy_" and not isinstance(args[0], OnGPU)))
    masked = name.startswith("index") and any(
        isinstance(index, OnGPU) and index.dtype in (torch.bool, torch.uint8) for index in tree_list(args[1:2])
    )
    if (name in WAITING or to_cpu or masked) and gpu:
        waits[asked_by()] += 1
    inner_kwargs = tree_map_only(OnGPU, lambda t: t.values, kwargs) | ({"device": "cpu"} if target else {})
    out = func(*tree_map_only(OnGPU, lambda t: t.values, args), **inner_kwargs)
    if to_cpu:
        return args[0] if name == "copy_" else out.clone()
    if name == "_to_copy" and not gpu:
        out = out.clone()
    out = tree_map(lambda t: OnGPU(t) if isinstance(t, torch.Tensor) else t, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if gpu else out


def tree_list(tree: Any) -> list[Any]:
    """List the leaves of nested arguments."""
    leaves: list[Any] = []
    tree_map(leaves.append, tree)
    return leaves


def asked_by() -> str:
    """Name the function whose code asked for the operation that runs, with its package, or an empty string."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "torch" not in path.parts and path.name not in (Path(__file__).name, "contextlib.py"):
            package = next((part for part in path.parts if part in OURS), None)
            return f"{package}/{path.name}:{frame.f_code.co_name}" if package else ""
        frame = frame.f_back
    return ""


class Stream(mock.MagicMock):
    """A CUDA stream without work left."""

    def query(self) -> bool:
        return True


@contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """Pretend a GPU; yield how often each function of ours made the CPU wait for it, which counts on."""
    torch._C._ensureCUDADeviceGuardSet()
    nothing = {
        *("empty_cache", "synchronize", "reset_peak_memory_stats", "set_device", "_lazy_init", "manual_seed"),
        *("manual_seed_all", "set_rng_state", "ipc_collect", "init"),
    }
    answers: dict[str, Any] = {name: lambda *_, **__: None for name in nothing}
    answers |= {"is_available": lambda: True, "is_initialized": lambda: True, "device_count": lambda: 1}
    answers |= {"current_device": lambda: 0, "is_bf16_supported": lambda *_: True, "get_rng_state": torch.get_rng_state}
    answers |= dict.fromkeys(("memory_allocated", "max_memory_allocated", "memory_reserved"), lambda *_: 0)
    answers |= dict.fromkeys(("Stream", "stream", "current_stream", "default_stream", "device"), Stream)
    properties = SimpleNamespace(name="pretended", major=9, minor=0, total_memory=2**36, multi_processor_count=100)
    answers |= {"get_device_properties": lambda *_: properties, "get_device_capability": lambda *_: (9, 0)}
    answers |= {"get_device_name": lambda *_: "pretended", "is_current_stream_capturing": lambda: False}
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter moves and stays the same object
    try:
        with ExitStack() as stack:
            for name, answer in answers.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, answer))
            stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda self, *_: self))
            yield stack.enter_context(Watch()).waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)
