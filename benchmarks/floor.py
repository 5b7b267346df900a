"""How near the work comes to what the machine can do: the floor of each benchmark, and the share of it that is reached.

    python benchmarks/floor.py

The ceilings are measured: operations a second of a large matrix product, bytes a second of a large copy. The floor is
the longer of two times: the operations of the work's matrix products at the one ceiling, and at the other the bytes
that it cannot do without: parameters, as often as they must be read or written, inputs and outputs. Memory is kept from
one step to the next, as in ``mt_train.py``.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from measure import in_turns, options, save

import fairseq
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mt_decode
import mt_train
import resmlp_vision
import vision_infer
from resmlp_core import PackedLinear, fold
from resmlp_core.common.environment import keep_memory

SIDE = {"cpu": 2048, "cuda": 8192}
COPIED = 2**28  # numbers in the large copy: 1 GB, far more than a cache holds
ADAM = 10  # a parameter read twice, its gradient written and read, and it and both moments read and written


def ceilings(device: str) -> tuple[float, float]:
    """Measure the floating-point operations and the bytes a second that this machine does at its best, in float32."""
    a, b = torch.randn(2, SIDE[device], SIDE[device], device=device)
    source = torch.zeros(COPIED, device=device)
    target = torch.empty_like(source)
    products: list[Callable[[], object]] = [lambda: a @ b]
    if device == "cpu":  # oneDNN's product, which PyTorch's own is not always as fast as
        packed = PackedLinear(nn.Linear(SIDE[device], SIDE[device]))
        products.append(lambda: packed(a))
    with torch.no_grad():
        product = min(map(best, products))
    copy = best(lambda: target.copy_(source))
    return 2 * SIDE[device] ** 3 / product, 2 * source.nbytes / copy


def best(call: Callable[[], object]) -> float:
    """Time the fastest of ten turns, in seconds."""
    return min(in_turns({"": call}, 10)[""])


def size_of(model: nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(parameter.nbytes for parameter in model.parameters())


def packed_operations(x: torch.Size, weight: torch.Size, *_: object, out_shape: torch.Size) -> int:
    """Count the operations of ``PackedLinear``, which PyTorch's counter does not know, from the shapes."""
    return 2 * out_shape.numel() * weight[1]


COUNTED = {torch.ops.mkldnn._linear_pointwise: packed_operations}


def training(device: str) -> tuple[Callable[[], object], int]:
    """Make the work of ``mt_train.py`` at the size of the Transformer base, and count its bytes."""
    dictionary = mt_train.make_dictionary(mt_train.SIZES["base"][4])
    batch, _ = mt_train.make_batch("base", dictionary)
    trainer = mt_train.make_trainer("resmlp", "base", dictionary, ["--cpu"] if device == "cpu" else [])
    return mt_train.make_step(trainer, batch), ADAM * size_of(trainer.model)


def decoding(device: str, batch: int, length: int = 50, beam: int = 4) -> tuple[Callable[[], object], int]:
    """Make the work of ``mt_decode.py``, and count its bytes.

    The encoder is read once, the decoder in every step; keys and values of cross-attention are computed once, and of A
    and the embeddings a step reads a few rows, which are not counted.
    """
    dictionary = mt_train.make_dictionary(mt_train.SIZES["base"][4])
    model = mt_train.make_trainer("resmlp", "base", dictionary, ["--cpu"] if device == "cpu" else []).model.eval()
    model.make_generation_fast_()
    sources = mt_decode.make_sources(dictionary, batch, length, device)
    embeddings = size_of(model.decoder.embed_tokens)
    once, each = size_of(model.encoder) - embeddings, size_of(model.decoder) - embeddings
    for layer in model.decoder.layers:
        keys_and_values = size_of(layer.encoder_attn.k_proj) + size_of(layer.encoder_attn.v_proj)
        once += keys_and_values
        each -= keys_and_values + size_of(layer.cross_position)
    return mt_decode.generate(model, dictionary, sources, beam), once + length * each


def classifying(device: str, batch: int) -> tuple[Callable[[], object], int]:
    """Make the work of ``vision_infer.py``, folded."""
    model = fold(resmlp_vision.create_model("resmlp_s12")).to(device)
    images = torch.randn(batch, 3, 224, 224, device=device)
    return partial(vision_infer.classify, model, images, 1), size_of(model) + images.nbytes


def main() -> None:
    """Run the command line."""
    args = options(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    keep_memory()
    operations_a_second, bytes_a_second = ceilings(args.device)
    print(f"ceilings: {operations_a_second / 1e9:,.0f} GFLOP/s, {bytes_a_second / 1e9:,.1f} GB/s")
    rows: list[dict[str, Any]] = [{"operations_per_second": operations_a_second, "bytes_per_second": bytes_a_second}]
    works: dict[str, Callable[[str], tuple[Callable[[], object], int]]] = {
        "training, 512/2048": training,
        "decoding, beam 4, batch 1": partial(decoding, batch=1),
        "decoding, beam 4, batch 16": partial(decoding, batch=16),
        "S12, batch 1": partial(classifying, batch=1),
        "S12, batch 32": partial(classifying, batch=32),
    }
    print(f"{'':28}{'GFLOP':>10}{'GB':>8}{'floor':>10}{'measured':>10}{'share':>8}")
    for name, make in works.items():
        call, moved = make(args.device)
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            call()
        operations = counter.get_total_flops()
        floor = max(operations / operations_a_second, moved / bytes_a_second)
        measured = median(in_turns({name: call}, args.rounds)[name])
        row = {"work": name, "operations": operations, "bytes": moved, "floor": floor, "seconds": measured}
        rows.append(row | {"share": floor / measured})
        print(f"{name:28}{operations / 1e9:>10,.1f}{moved / 1e9:>8.2f}{floor:>8.3f} s{measured:>8.3f} s", end="")
        print(f"{floor / measured:>8.0%}", flush=True)
    save(args, rows, fairseq=fairseq.__version__, timm=timm.__version__)


if __name__ == "__main__":
    main()
