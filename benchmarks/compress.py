"""What a trained model loses when its small weights are pruned, and with 8-bit integers in its linear layers:

    python benchmarks/compress.py --classifier build/cifar10/last.pth.tar --images hfds/uoft-cs/cifar10 --image-key img
    python benchmarks/compress.py --translator build/multi30k/en-de/resmlp_tiny

Pruning is by magnitude, in each matrix by itself, without further training. The integers are those of PyTorch's dynamic
quantisation for CPUs, in every nn.Linear; their speed is measured in turns with that of float32. The table goes to a
JSON file, the curve of pruning to a PNG beside it.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
from measure import in_turns, options, save

import matplotlib.pyplot as plt
import torch
from fairseq import checkpoint_utils
from torch import nn
from torch.nn.utils import prune

from resmlp_core import ChannelMLP, CrossPositionLinear, PackedLinear, fold
from resmlp_core.inspect.plots import save as save_figure
from resmlp_mt import ResMLPModel
from resmlp_mt.data.text_lines import read_lines
from resmlp_mt.metrics import score
from resmlp_vision.data.loaders import settings_for, validation_loader
from resmlp_vision.data.opening import count_classes, open_dataset
from resmlp_vision.evaluation import evaluate
from resmlp_vision.models.loading import load_trained

SHARES = (0.5, 0.8, 0.9, 0.95)  # of the weights, that go
PRUNED = {"A": "A", "BC": "B and C", "ABC": "A, B and C"}
QUALITIES = {"classifier": "top-1 accuracy (%)", "translator": "BLEU"}


@dataclass(frozen=True)
class Subject:
    """A trained model, and how its variants are measured.

    Attributes:
        kind: its name in the table.
        model: as it was trained.
        quality: gives that of a variant, in the unit that ``QUALITIES`` names.
        work: classifies or translates the same ``units`` images or sentences with a variant.
    """

    kind: str
    model: nn.Module
    quality: Callable[[nn.Module], float]
    work: Callable[[nn.Module], object]
    units: int


def prune_smallest(model: nn.Module, matrices: str, share: float) -> nn.Module:
    """Copy a model, the smallest weights of each of its matrices set to zero.

    Args:
        model: has ``CrossPositionLinear`` and ``ChannelMLP`` in it.
        matrices: letters of those to prune, of ``ABC``.
        share: of a matrix's weights; of a triangular A's lower triangle.
    """
    pruned = copy.deepcopy(model)
    for module in pruned.modules():
        if isinstance(module, CrossPositionLinear) and "A" in matrices:
            scores = module.weight.detach().abs()
            if module.causal:  # what is above the diagonal is no weight, and comes last
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), torch.inf)
            go = round(share * scores.isfinite().sum().item())
            prune.l1_unstructured(module, "weight", go, importance_scores=scores)
            prune.remove(module, "weight")
        elif isinstance(module, ChannelMLP):
            for letter, linear in (("B", module.fc1), ("C", module.fc2)):
                if letter in matrices:
                    prune.l1_unstructured(linear, "weight", share)
                    prune.remove(linear, "weight")
    return pruned


def quantize(folded: nn.Module) -> nn.Module:
    """Copy a folded model, with 8-bit integers in all its ``nn.Linear``; A stays as it is."""
    plain = copy.deepcopy(folded)
    for name, module in list(plain.named_modules()):
        if isinstance(module, PackedLinear):  # PyTorch quantises only nn.Linear
            linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            linear.weight = module.weight
            linear.bias = module.bias
            plain.set_submodule(name, linear)
    return torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)


def megabytes(model: nn.Module) -> float:
    """Return the size of a model's file of weights."""
    with tempfile.NamedTemporaryFile() as file:
        torch.save(model.state_dict(), file.name)
        return Path(file.name).stat().st_size / 1e6


def load_classifier(args: argparse.Namespace) -> Subject:
    """Load a classifier: its quality is top-1 accuracy, its work the model on a batch of images."""
    model = load_trained(args.classifier)
    config, wanted = settings_for(model, data=args.images, image_key=args.image_key, workers=0)
    device = torch.device("cpu")
    images = open_dataset(config, args.split, training=False, classes={c: i for i, c in enumerate(model.classes)})
    count_classes(images, model.num_classes)
    loader = validation_loader(images, config, device, **wanted)
    batch = torch.randn(32, 3, config.img_size, config.img_size)
    return Subject(
        "classifier",
        model,
        lambda variant: evaluate(variant, loader)["top1"],
        lambda variant: variant(batch),
        32,
    )


def load_translator(folder: Path) -> Subject:
    """Load a recipe's translation model: its quality is BLEU on the test set, its work a fifth of that set."""
    above = folder.resolve().parent
    hub = ResMLPModel.from_pretrained(
        str(folder.resolve()),
        checkpoint_file="model.pt",
        data_name_or_path=str(above / "data-bin"),
        bpe="sentencepiece",
        sentencepiece_model=str(above / "sentencepiece.model"),
    )
    text, task = above / "text", hub.task.cfg
    sources, references = (read_lines(text / f"test.{side}") for side in (task.source_lang, task.target_lang))
    longest_first = sorted(range(len(sources)), key=lambda i: -len(sources[i]))

    def translate(variant: Any, indices: Sequence[int]) -> dict[int, str]:
        variant.make_generation_fast_()  # which is folded already: it computes no attention weights either
        hub.models[0] = variant
        return dict(zip(indices, hub.translate([sources[i] for i in indices], beam=4), strict=True))

    def quality(variant: nn.Module) -> float:
        hypotheses = translate(variant, longest_first)
        return float(score([hypotheses[i] for i in range(len(sources))], references)["bleu"])

    some = longest_first[::5]
    return Subject("translator", load_unfolded(folder), quality, lambda variant: translate(variant, some), len(some))


def load_unfolded(folder: Path) -> nn.Module:
    """Load a recipe's translation model as it was trained; the hub's interface folds what it loads."""
    overrides = {"data": str(folder.parent / "data-bin")}
    (model,), _ = checkpoint_utils.load_model_ensemble([str(folder / "model.pt")], arg_overrides=overrides)
    return model.eval()


def variants(model: nn.Module) -> Iterator[tuple[dict[str, Any], nn.Module]]:
    """Yield a model whole, with integers, and pruned, each folded and with what the table says of it."""
    folded = fold(model)
    yield {"variant": "float32"}, folded
    yield {"variant": "int8"}, quantize(folded)
    for matrices, name in PRUNED.items():
        for share in SHARES:
            row = {"variant": f"{share:.0%} of {name} pruned", "pruned": name, "share": share}
            yield row, fold(prune_smallest(model, matrices, share))


def compare(subject: Subject, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all variants of a model, and print a row for each; zeros are as fast as other weights, and not timed."""
    rows, timed = [], {}
    trained = megabytes(subject.model)
    print(f"{f'{subject.kind}, {trained:.2f} MB as trained':<44}{QUALITIES[subject.kind]:>18}{'MB':>10}")
    for row, variant in variants(subject.model):
        if "pruned" not in row:
            timed[row["variant"]] = partial(subject.work, variant)
        row |= {"model": subject.kind, "quality": subject.quality(variant)}
        row |= {"megabytes": megabytes(variant), "megabytes_as_trained": trained}
        rows.append(row)
        print(f"{subject.kind:<12}{row['variant']:<32}{row['quality']:>18.2f}{row['megabytes']:>10.2f}", flush=True)
    with torch.inference_mode():
        seconds = in_turns(timed, args.rounds)
    for row in rows[: len(timed)]:
        row["per_second"] = subject.units / median(seconds[row["variant"]])
        print(f"{subject.kind:<12}{row['variant']:<32}{row['per_second']:>16,.1f}/s", flush=True)
    return rows


def draw(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Draw quality against the share of weights that are pruned, a picture for each model."""
    kinds = list(dict.fromkeys(row["model"] for row in rows))
    figure, grid = plt.subplots(1, len(kinds), figsize=(4.5 * len(kinds), 3.6), layout="constrained", squeeze=False)
    for ax, kind in zip(grid.flat, kinds, strict=True):
        of_kind = [row for row in rows if row["model"] == kind]
        whole = next(row["quality"] for row in of_kind if row["variant"] == "float32")
        for name in PRUNED.values():
            curve = [(0.0, whole)] + [(row["share"], row["quality"]) for row in of_kind if row.get("pruned") == name]
            ax.plot([100 * share for share, _ in curve], [quality for _, quality in curve], "o-", label=name)
        ax.set(title=kind, xlabel="weights pruned (%)", ylabel=QUALITIES[kind], ylim=(0, None))
        ax.grid(alpha=0.3)
        ax.legend()
    save_figure(figure, output)


def main() -> None:
    """Run the command line."""
    parser = options(__doc__)
    parser.add_argument("--classifier", type=Path, metavar="CHECKPOINT", help="of a training run")
    parser.add_argument("--images", metavar="DATA", help="what it is measured on, such as hfds/uoft-cs/cifar10")
    parser.add_argument("--split", default="test", help="of the images (default: %(default)s)")
    parser.add_argument("--image-key", default="image")
    parser.add_argument("--translator", type=Path, metavar="FOLDER", help="where a recipe left its model")
    parser.set_defaults(device="cpu")
    args = parser.parse_args()
    if args.device != "cpu":
        parser.error("--device: PyTorch's 8-bit integers are for CPUs")
    if not (args.classifier or args.translator) or bool(args.classifier) != bool(args.images):
        parser.error("give --classifier with --images, --translator, or all three")
    torch.set_num_threads(args.threads)
    rows = []
    if args.classifier:
        rows += compare(load_classifier(args), args)
    if args.translator:
        rows += compare(load_translator(args.translator), args)
    save(args, rows)
    draw(rows, args.out / "compress.png")


if __name__ == "__main__":
    main()
