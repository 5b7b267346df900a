"""A GPU that is pretended: ``python tests/pretended_gpu.py -m fairseq_cli.train ...`` trains as on one, with none.

Tensors stay in the CPU's memory. The storages of those that go to ``cuda``, and of what is computed from them, are
marked by two modes of PyTorch: one answers what Python asks for, the other sees each operation, also of the backward.
The last line printed is JSON: ``faults``, where a GPU would have refused an operation for a tensor of the CPU's, by
place in ResMLP; ``synchronisations``, how often which function waits for the GPU, ours or a library's; ``operations``,
how many there were. The status is 1 if there are faults.
What this cannot tell: speed, memory, numbers, half precision, NCCL, kernels that a GPU lacks, streams that do not wait
for each other, copies to the GPU that block. PyTorch's clipping of gradients, by C++, waits here and not on a GPU.
"""

import atexit
import importlib
import json
import sys
import traceback
from collections import Counter
from unittest.mock import MagicMock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
KEEP_DEVICE = {Tensor.new_tensor, Tensor.new, Tensor.__deepcopy__}  # make their storage where no mode sees it
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive", "unique_dim"}
WAITS |= {"item", "is_nonzero", "allclose", "argwhere"}  # which PyTorch takes apart, except in inference mode
faults, synchronisations, counts = Counter(), Counter(), Counter(operations=0)


def tensors(values) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


def find(place) -> torch.device:
    return GPU if type(place) is int or torch.device(place).type == "cuda" else torch.device(place)


def on_gpu(tensor: Tensor) -> bool:
    return hasattr(tensor.untyped_storage(), "on_gpu")


def mark(result, gpu: bool):
    for tensor in tensors(result):
        vars(tensor.untyped_storage()).update(on_gpu=True) if gpu else vars(tensor.untyped_storage()).clear()
    return result


def places():
    """Yield the functions that run, innermost first, and whether each is ResMLP's; PyTorch's are left out."""
    for frame, _ in traceback.walk_stack(sys._getframe()):
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] not in ("torch", "__main__", "contextlib"):
            yield f"{module}.{frame.f_code.co_qualname}", module.startswith("resmlp_")


def fault(what: str) -> None:
    found = list(places())
    faults[f"{what} in {next((place for place, ours in found if ours), None)}, by {found[0][0]}"] += 1


def wait() -> None:
    synchronisations[next(places())[0]] += 1


class Operations(TorchDispatchMode):  # sees each: what it computes from a GPU's tensors is on the GPU
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, used = function.overloadpacket.__name__, tensors((args, kwargs))
        if not any(map(on_gpu, used)):
            return function(*args, **(kwargs or {}))
        counts["operations"] += 1
        copying, indexing = name in ("copy_", "_foreach_copy_"), name in ("index", "index_put", "index_put_")
        checked = [] if copying else tensors((args[0], args[2:])) if indexing else used  # indices may be on the CPU
        written = used[0] if name[-1] == "_" else None  # no number of the CPU's either
        if wrong := [tuple(t.shape) for t in checked if not on_gpu(t) and (t.dim() or t is written)]:
            fault(f"{name} with a CPU tensor of shape {wrong[0]}")
        counted = indexing and any(on_gpu(index) and index.dtype == torch.bool for index in tensors(args[1]))
        counted = counted and (name == "index" or args[2].numel() > 1)  # one value fills what is masked
        to_cpu = copying and not all(map(on_gpu, tensors(args[0])))
        if name in WAITS or counted or to_cpu or str(function) == "aten.repeat_interleave.Tensor":
            wait()
        return function(*args, **(kwargs or {})) if copying else mark(function(*args, **(kwargs or {})), True)


class Devices(TorchFunctionMode):  # answers what Python asks of devices, and makes and moves tensors there
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        own = bool(args) and isinstance(args[0], Tensor) and args[0].layout == torch.strided and on_gpu(args[0])
        if own and (attribute := getattr(function, "__self__", None)) in (Tensor.device, Tensor.is_cuda, Tensor.is_cpu):
            return GPU if attribute is Tensor.device else attribute is Tensor.is_cuda
        if function is Tensor.backward:  # within which Python's own functions ask too
            with self:
                return torch.autograd.backward(args[0], kwargs.pop("gradient"), **kwargs)
        if own and function in (Tensor.numpy, Tensor.__array__):
            fault("NumPy cannot read a GPU's tensor")
        if own and function is Tensor.tolist:
            wait()
        if own and function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], mark(torch.tensor(args[1]), True), *args[2:])  # PyTorch makes it where the tensor is
        moves = (Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.type_as)
        if function in moves or (function is torch.as_tensor and isinstance(args[0], Tensor)):
            return self.move(function, own, *args, **kwargs)
        if kwargs.get("device") is not None and function is not torch._C._nn._parse_to:  # which makes nothing
            place = find(kwargs["device"])
            return mark(function(*args, **kwargs | {"device": CPU if place == GPU else place}), place == GPU)
        result = function(*args, **kwargs)
        return mark(result, own) if function in KEEP_DEVICE else result

    def move(self, function, own: bool, tensor: Tensor, *args, **kwargs) -> Tensor:
        place, dtype = GPU if own else CPU, kwargs.pop("dtype", None) or tensor.dtype
        for value in (*args, kwargs.pop("device", None), kwargs.pop("other", None)):
            if isinstance(value, Tensor):
                place, dtype = GPU if on_gpu(value) else CPU, value.dtype
            elif isinstance(value, str | torch.device) or type(value) is int:
                place = find(value)
            dtype = value if isinstance(value, torch.dtype) else dtype
        place = {Tensor.cuda: GPU, Tensor.cpu: CPU}.get(function, place)
        if own and place == CPU:
            wait()
        kwargs |= {"copy": True} if own != (place == GPU) else {}
        return mark(Tensor.to(tensor, CPU if place == GPU else place, dtype, **kwargs), place == GPU)


def install() -> None:
    answers = {"is_available": True, "device_count": 1, "current_device": 0, "get_rng_state": torch.get_rng_state()}
    found = type("", (), {"name": "pretended", "major": 9, "minor": 0, "total_memory": 2**36, "L2_cache_size": 2**25})
    answers |= {"get_device_properties": found, "max_memory_allocated": 0}
    silent = ("set_device", "empty_cache", "reset_peak_memory_stats", "set_rng_state", "manual_seed", "manual_seed_all")
    for name, answer in (answers | dict.fromkeys(silent)).items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    torch.cuda.synchronize = lambda *_: wait()
    plain = torch.Generator.__new__
    torch.Generator = type("Generator", (torch.Generator,), {"__new__": lambda cls, *_, **__: plain(cls)})
    torch.cuda.Stream = torch.cuda.stream = torch.cuda.current_stream = torch.cuda.device = MagicMock()
    Tensor.pin_memory = lambda self, *_: self  # patched, as other threads call it, which have no modes
    torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda _: None
    join = torch.distributed.init_process_group
    torch.distributed.init_process_group = lambda backend, **options: join("gloo", **options)


if __name__ == "__main__":
    program = importlib.import_module(sys.argv[2])  # and what it imports, as without a GPU
    sys.argv = [program.__file__, *sys.argv[3:]]
    install()
    atexit.register(lambda: print(json.dumps({"faults": faults, "synchronisations": synchronisations, **counts})))
    with Operations(), Devices():
        (program.cli_main if hasattr(program, "cli_main") else program.main)()
    sys.exit(1 if faults else 0)
