"""A GPU that is pretended: ``python tests/pretended_gpu.py -m fairseq_cli.train ...`` trains as on one, with none.

All tensors stay in the CPU's memory. The storages of those that the program moves to ``cuda`` are marked, and what is
computed from them is too. Two modes of PyTorch do this: one answers what Python asks for (devices, moves, new tensors),
the other sees each operation, those of the backward pass too.

The last line printed is JSON:

- ``faults``: where a GPU would have refused an operation, as one of its tensors is on the CPU, by place in ResMLP;
- ``synchronisations``: how often a function of ResMLP itself waits for the GPU;
- ``of_others``: how often fairseq, timm, lightly and the rest do;
- ``operations``: how many a GPU would have run.

The status is 1 if there are faults, or as the program leaves it. What this cannot tell: speed, memory, numbers, half
precision, NCCL, kernels that a GPU lacks, streams that do not wait for each other, copies to the GPU that block.
"""

import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
MOVES = {Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.type_as}
KEEP_DEVICE = {Tensor.new_tensor, Tensor.new, Tensor.__deepcopy__}  # make their storage where no mode sees it
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive", "unique_dim"}
COPIES = {"copy_", "_foreach_copy_"}

faults: Counter[str] = Counter()
synchronisations: Counter[str] = Counter()
counts: Counter[str] = Counter()


def on_gpu(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and hasattr(tensor.untyped_storage(), "on_gpu")


def mark(result: Any, gpu: bool) -> Any:
    """Say of a result's tensors where they are."""
    for tensor in tensors(result):
        storage = tensor.untyped_storage()
        if gpu:
            storage.on_gpu = True
        else:
            vars(storage).pop("on_gpu", None)
    return result


def tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


def places() -> Iterator[tuple[str, bool]]:
    """Yield the functions that run, innermost first, and whether each is ResMLP's; PyTorch's are left out."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] not in ("torch", "__main__", "contextlib"):
            yield f"{module}.{frame.f_code.co_qualname}", module.startswith("resmlp_")
        frame = frame.f_back


def fault(what: str) -> None:
    found = list(places())
    inner, ours = found[0][0], next((place for place, is_ours in found if is_ours), "")
    faults[f"{what} in {ours}" + (f", by {inner}" if inner != ours else "")] += 1


def wait() -> None:
    """Count a synchronisation."""
    place, ours = next(places())
    if ours:
        synchronisations[place] += 1
    else:
        counts["of_others"] += 1


class Operations(TorchDispatchMode):
    """Sees each operation: what it computes from a GPU's tensors is on the GPU, and so must all of them be."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        used = tensors((args, kwargs))
        if not any(map(on_gpu, used)):
            return function(*args, **kwargs)
        counts["operations"] += 1
        if name in COPIES:
            if not all(map(on_gpu, tensors(args[0]))):
                wait()
            return function(*args, **kwargs)
        indexing = name in ("index", "index_put", "index_put_", "_index_put_impl_")
        checked = tensors((args[0], args[2:])) if indexing else used  # indices may be on the CPU
        if wrong := [tuple(t.shape) for t in checked if t.dim() and not on_gpu(t)]:
            fault(f"{name} with a CPU tensor of shape {wrong[0]}")
        masks = indexing and any(on_gpu(t) and t.dtype in (torch.bool, torch.uint8) for t in tensors(args[1]))
        filled = name != "index" and masks and args[2].numel() == 1  # which masked_fill does, without counting
        if name in WAITS or str(function) == "aten.repeat_interleave.Tensor" or (masks and not filled):
            wait()
        return mark(function(*args, **kwargs), True)


class Devices(TorchFunctionMode):
    """Answers what Python asks of devices, and makes and moves tensors there."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        own = isinstance(args[0], Tensor) and on_gpu(args[0]) if args else False
        attribute = getattr(function, "__self__", None)
        if attribute is Tensor.device and own:
            return GPU
        if attribute is Tensor.is_cuda or (attribute is Tensor.is_cpu and own):
            return own == (attribute is Tensor.is_cuda)
        if function is Tensor.backward:
            with self:
                return torch.autograd.backward(*args, kwargs.pop("gradient", None), **kwargs)
        if function in (Tensor.numpy, Tensor.__array__) and own:
            fault("NumPy cannot read a GPU's tensor")
        if function is Tensor.tolist and own:
            wait()
        if function in MOVES:
            return self.move(function, own, *args, **kwargs)
        device = kwargs.get("device")
        if device is not None and function is not torch._C._nn._parse_to:  # which makes nothing
            gpu = torch.device(device).type == "cuda"
            return mark(function(*args, **{**kwargs, "device": "cpu" if gpu else device}), gpu)
        result = function(*args, **kwargs)
        return mark(result, own) if function in KEEP_DEVICE else result

    def move(self, function: Any, own: bool, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Do what ``Tensor.to`` and its kin do: copy a tensor that is elsewhere."""
        there = {Tensor.cuda: GPU, Tensor.cpu: torch.device("cpu")}.get(function)
        rest = []
        for value in (*args, kwargs.pop("other", None), kwargs.pop("device", None)) if there is None else ():
            if isinstance(value, Tensor):
                there = GPU if on_gpu(value) else torch.device("cpu")
                rest.append(value.dtype)
            elif isinstance(value, str | torch.device) or type(value) is int:
                there = torch.device(value)
            elif value is not None:
                rest.append(value)
        gpu = own if there is None else there.type == "cuda"
        if there is not None and there.type not in ("cpu", "cuda"):
            return Tensor.to(tensor, there, *rest, **kwargs)
        rest = [value for value in rest if not isinstance(value, bool)] or [tensor.dtype]
        options = {key: value for key, value in kwargs.items() if key != "non_blocking"}
        if own and not gpu:
            wait()
        if own != gpu:
            options["copy"] = True
        return mark(Tensor.to(tensor, *rest, **options), gpu)


def install() -> None:
    """Let PyTorch find one GPU."""
    answers = {"is_available": True, "device_count": 1, "current_device": 0, "is_current_stream_capturing": False}
    answers |= {"get_rng_state": torch.get_rng_state(), "max_memory_allocated": 0, "get_device_capability": (9, 0)}
    answers |= {"get_device_properties": SimpleNamespace(name="pretended", major=9, minor=0, total_memory=2**36)}
    silent = ("set_device", "empty_cache", "reset_peak_memory_stats", "set_rng_state", "manual_seed", "manual_seed_all")
    for name, answer in (answers | dict.fromkeys(silent)).items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    Tensor.pin_memory = lambda self, *_: self  # patched, as other threads call it, which have no modes
    Tensor.record_stream = lambda self, _: None
    torch.cuda.synchronize = lambda *_: wait()
    torch.cuda.Stream = torch.cuda.stream = torch.cuda.current_stream = torch.cuda.device = MagicMock()
    torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda _: None
    join = dist.init_process_group
    dist.init_process_group = lambda backend, **options: join("gloo", **options)


if __name__ == "__main__":
    program = importlib.import_module(sys.argv[2])  # and what it imports, as without a GPU
    sys.argv = [program.__file__, *sys.argv[3:]]
    install()
    try:
        with Operations(), Devices():
            (program.cli_main if hasattr(program, "cli_main") else program.main)()
    finally:
        print(json.dumps({"faults": faults, "synchronisations": synchronisations, **counts}))
    sys.exit(1 if faults else 0)
