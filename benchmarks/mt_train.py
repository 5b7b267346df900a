"""Training a translator: words a second and peak memory, ResMLP beside fairseq's Transformer of equal dimensions.

    python benchmarks/mt_train.py [--sizes base tiny] [--dtype float32 bfloat16]

One step is forward, backward, clipping and Adam's update through fairseq's own trainer, on random sentences of the
lengths that a corpus has; both models get the same batch. A word is a token of the target. On a CPU the memory of one
step is kept for the next, as in recipes. On AMD's processors with AVX-512 oneDNN computes ResMLP's linear layers in
float32; there the Transformer is measured by oneDNN too, and what is left between the two is the architecture's.
"""

import argparse
from collections.abc import Callable
from types import MethodType
from typing import Any

from measure import options, save, summarise

import fairseq
import torch
from fairseq import options as fairseq_options
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.models.transformer import TransformerModel
from fairseq.modules import MultiheadAttention
from fairseq.tasks.translation import TranslationTask
from fairseq.trainer import Trainer

import resmlp_mt.plugin  # noqa: F401  registers the model
from resmlp_core import by_onednn
from resmlp_core.common.environment import keep_memory
from resmlp_core.layers.onednn import onednn_is_faster

# By name: width, hidden width, layers of either side, heads, vocabulary, tokens a batch.
SIZES = {
    "base": (512, 2048, 6, 8, 32000, 2048),
    "tiny": (128, 256, 4, 4, 10000, 4096),
    "demo": (128, 256, 4, 4, 3000, 1024),
}
PEER = "fairseq's Transformer"
MODELS = {"ours": "resmlp", PEER: "transformer"}


def compute_by_onednn(model: TransformerModel) -> None:
    """Let oneDNN compute the linear layers of fairseq's Transformer in training, as it does ResMLP's."""
    for part in (model.encoder, model.decoder):
        part.forward = MethodType(by_onednn(type(part).forward), part)
        for module in part.modules():
            if isinstance(module, MultiheadAttention):
                module.skip_embed_dim_check = True  # else PyTorch's own attention reads their weights


def make_dictionary(size: int) -> Dictionary:
    """Make a dictionary of so many entries, the four special ones included."""
    dictionary = Dictionary()
    for i in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def make_trainer(arch: str, size: str, dictionary: Dictionary, more: list[str]) -> Trainer:
    """Build a model and fairseq's trainer around it."""
    width, hidden, layers, heads, _, tokens = SIZES[size]
    line = ["no-data", "--arch", arch, "--share-all-embeddings", "--max-tokens", str(tokens), "--dropout", "0.1"]
    line += ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--lr", "0.0005"]
    line += ["--optimizer", "adam", "--clip-norm", "1"]
    for side in ("source", "target"):
        line += [f"--max-{side}-positions", "256"]
    for side in ("encoder", "decoder"):
        line += [f"--{side}-embed-dim", str(width), f"--{side}-ffn-embed-dim", str(hidden)]
        line += [f"--{side}-layers", str(layers), f"--{side}-attention-heads", str(heads)]
    args = fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), [*line, *more])
    cfg = convert_namespace_to_omegaconf(args)
    task = TranslationTask(cfg.task, dictionary, dictionary)
    model = task.build_model(cfg.model)
    assert isinstance(model, TransformerModel)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))


def make_batch(size: str, dictionary: Dictionary) -> tuple[dict[str, Any], int]:
    """Make a batch of random sentences of nearly equal lengths, as fairseq's batches have; and count its words."""
    generator = torch.Generator().manual_seed(1)
    tokens = SIZES[size][5]
    lengths = torch.arange(24, 33).repeat(tokens // 32 // 9 + 1)[: tokens // 32].tolist()

    def draw(length: int) -> torch.Tensor:
        words = torch.randint(4, len(dictionary), (length - 1,), generator=generator)
        return torch.cat([words, torch.tensor([dictionary.eos()])])

    sides = [[draw(length) for length in lengths] for _ in range(2)]
    pairs = LanguagePairDataset(sides[0], lengths, dictionary, sides[1], lengths, dictionary)
    return pairs.collater([pairs[i] for i in range(len(pairs))]), sum(lengths)


def make_step(trainer: Trainer, batch: dict[str, Any]) -> Callable[[], None]:
    """Prepare an update on a batch."""
    trainer.begin_epoch(1)

    def step() -> None:
        with metrics.aggregate(new_root=True):
            trainer.train_step([batch])

    return step


def compare(size: str, dtype: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure both models at one size, in one type."""
    dictionary = make_dictionary(SIZES[size][4])
    batch, words = make_batch(size, dictionary)
    more = ["--cpu"] * (args.device == "cpu") + ["--bf16"] * (dtype == "bfloat16")

    def contender(arch: str, onednn: bool = False) -> Callable[[], None]:
        trainer = make_trainer(arch, size, dictionary, more)
        if onednn:
            compute_by_onednn(trainer.model)
        return make_step(trainer, batch)

    contenders = {name: contender(arch) for name, arch in MODELS.items()}
    if args.device == "cpu" and dtype == "float32" and onednn_is_faster():
        contenders[f"{PEER}, by oneDNN"] = contender(MODELS[PEER], onednn=True)
    case = {"size": size, "dtype": dtype, "words": words}
    return summarise(case, contenders, words, PEER, args.rounds, args.device)


def main() -> None:
    """Run the command line."""
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["base", "tiny"])
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_memory()
    rows = [row for size in args.sizes for dtype in args.dtype for row in compare(size, dtype, args)]
    save(args, rows, fairseq=fairseq.__version__)


if __name__ == "__main__":
    main()
