"""Top-1 and top-5 accuracy: ``python -m resmlp_vision.evaluate --data hfds/ILSVRC/imagenet-1k``.

ImageNet's validation set and ImageNet-V2 are data sets like any other; ``--real`` adds the accuracy on ImageNet-ReaL's
labels. Images are resized to ``size / 0.9`` and their centre is cut out (paper, section 3.1). ``--probe knn`` and
``--probe linear`` measure the features in place of the classifier, as DINO does.
"""

import argparse
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timm.data import RealLabelsImagenet, resolve_model_data_config
from timm.task import ClassificationEvaluator
from timm.task.evaluator import evaluation_sample_limit
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core import fold
from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.files import write_json
from resmlp_vision.config import CHOICES, LIMITS, OF_A_MACHINE, RunConfig
from resmlp_vision.data.datasets import Images, StreamedImages, count_classes, open_dataset, readable, validation_loader
from resmlp_vision.distributed import agree, agree_on_data, join_processes, leave_processes, use_precision
from resmlp_vision.models.loading import add_model_arguments, load

log = logging.getLogger(__name__)


def evaluate(
    model: nn.Module, loader: Any, device: torch.device, real: RealLabelsImagenet | None = None
) -> dict[str, float]:
    """Measure a classifier on all images of a loader, over all processes; those that cannot be read do not count.

    Args:
        model: maps images ``(B, 3, height, width)`` to logits ``(B, classes)``.
        loader: timm's, over validation images.
        device: where the sums are kept.
        real: collects the logits of ImageNet's validation set, in its order; for one process.

    Returns:
        ``loss``, the mean cross-entropy; ``top1`` and ``top5`` in percent; ``unreadable``, a number of images, and
        ``images``, that of the others.

    Raises:
        UserError: more images than the data set's limit cannot be read, or none can.
    """
    evaluator = ClassificationEvaluator(device)
    model.eval()
    for logits, labels in apply_to_images(model, loader, "validation"):
        if real is not None:
            real.add_result(logits)
        evaluator.update(logits, labels)
    images = evaluator.counts[0].clone()
    torch.distributed.all_reduce(images)
    if not images:
        raise UserError("none of the images can be read")
    outcome = {**evaluator.compute(distributed=True), "unreadable": loader.dataset.unreadable.finish()}
    return outcome | {"images": int(images)}


def apply_to_images(model: Callable[[Tensor], Tensor], loader: Any, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what a model makes of a loader's images, and their labels, batch by batch, with a progress bar.

    Of the loader's images come those that can be read, and each once over all processes.

    Args:
        model: maps images ``(B, 3, height, width)`` to ``(B, ...)``.
        loader: timm's, over validation images.
        name: of the progress bar.

    Raises:
        UserError: more images than the data set's limit cannot be read.
    """
    limit, seen = evaluation_sample_limit(loader), 0
    unreadable = loader.dataset.unreadable
    quiet = None if torch.distributed.get_rank() == 0 else True
    for images, labels in tqdm(loader, desc=name, unit=" batches", disable=quiet, leave=False):
        unreadable.refuse_more()
        count = len(labels) if limit is None else max(0, min(len(labels), limit - seen))
        seen += len(labels)
        with torch.inference_mode():
            outputs = model(images)
        outputs, labels = outputs[:count], labels[:count]  # what is behind fills the last process's batch
        if unreadable.count.value:  # to choose among rows, a GPU is waited for
            known = readable(labels)
            outputs, labels = outputs[known], labels[known]
        yield outputs, labels
    unreadable.refuse_more()


def real_labels(dataset: Images | StreamedImages) -> RealLabelsImagenet:
    """Prepare ImageNet-ReaL's labels for the validation set in the order of a data set.

    Raises:
        UserError: the images are not named as in ImageNet's validation set, or do not come in order.
    """
    if isinstance(dataset, StreamedImages) or torch.distributed.get_world_size() > 1:
        raise UserError("--real needs the images in order: one process, and no stream")
    names = [re.search(r"ILSVRC2012_val_\d{8}", str(name)) for name in dataset.filenames(basename=True)]
    if len(names) != 50_000 or not all(names):
        raise UserError("--real needs the 50,000 images of ImageNet's validation set under their own names")
    return RealLabelsImagenet([f"{name[0]}.JPEG" for name in names if name])


def read_images_as(model: Any, args: argparse.Namespace) -> tuple[RunConfig, dict[str, Any]]:
    """Return the settings of the data that the command line names, as the model wants its images, and mean and std."""
    wanted = resolve_model_data_config(model)
    config = RunConfig(
        data=args.data,
        train_split=args.train_split,
        val_split=args.split,
        image_key=args.image_key,
        label_key=args.label_key,
        img_size=wanted["input_size"][-1],
        crop_pct=wanted["crop_pct"] if args.crop_pct is None else args.crop_pct,
        interpolation=wanted["interpolation"],
        val_batch_size=args.batch_size,
        workers=args.workers,
        matmul_precision=args.matmul_precision,
        max_unreadable=args.max_unreadable,
        device=args.device,
    )
    return config, {key: wanted[key] for key in ("mean", "std")}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m resmlp_vision.evaluate", description="Measure a classifier, or its features, on a data set."
    )
    add_model_arguments(parser)
    parser.add_argument("--data", required=True, help="hfds/NAME, or a folder of parquet files or of images")
    parser.add_argument("--split", default="validation", help="'' for the folder itself (default: %(default)s)")
    for key in ("image", "label"):
        parser.add_argument(f"--{key}-key", default=key, help=f"the column of {key}s (default: %(default)s)")
    parser.add_argument("--crop-pct", type=float, help="share of the side that is cut out (default: the model's, 0.9)")
    parser.add_argument("--real", action="store_true", help="also on ImageNet-ReaL's labels")
    parser.add_argument(
        "--probe",
        choices=("knn", "linear"),
        help="measure the features: by the nearest training images, or by a linear classifier trained on them",
    )
    parser.add_argument("--train-split", help="of the probes' training images (default: train)")
    parser.add_argument("--k", type=int, nargs="+", help="nearest images that vote in --probe knn (default: 10 20)")
    parser.add_argument("--batch-size", type=int, default=256, help="images at once, a process (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, help="of the data loader, a process (default: as many as the cores that it can have)"
    )
    parser.add_argument(
        "--matmul-precision",
        choices=CHOICES["matmul_precision"],
        default="high",
        help="of float32 products on a GPU: highest is float32 throughout (default: %(default)s, TF32)",
    )
    parser.add_argument(
        "--max-unreadable", type=int, default=100, help="images, before it gives up (default: %(default)s)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--out", type=Path, help="write the figures there as JSON; of --probe linear the folder of its training"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings of --probe linear's training, such as lr=0.1"
    )
    args = parser.parse_intermixed_args()
    if args.probe != "linear" and args.overrides:
        parser.error(f"{args.overrides[0]}: only --probe linear trains, and has such settings")
    if args.probe == "linear" and args.out is None:
        parser.error("--probe linear needs --out, the folder of its training")
    if args.probe != "knn" and args.k is not None:
        parser.error("--k is for --probe knn alone")
    if args.probe is None and args.train_split is not None:
        parser.error("--train-split is for --probe alone")
    if args.probe != "linear" and args.out and (args.out.is_dir() or not args.out.parent.is_dir()):
        parser.error(f"--out {args.out} is to be a file, in a folder that is there")
    args.k, args.train_split = args.k or [10, 20], args.train_split or "train"
    for name in ("val_batch_size", "workers", "max_unreadable", "crop_pct"):
        option, (least, most) = name.removeprefix("val_"), LIMITS[name]
        value = getattr(args, option)
        if value is not None and not least <= value <= most:
            parser.error(f"--{option.replace('_', '-')} {value} must be from {least} to {most}")
    if args.probe and args.real:
        parser.error("--real is for a classifier's own labels, not for --probe")
    return args


@reporting("evaluate")
def main() -> None:
    """Run the command line."""
    args = parse_arguments()
    try:
        if args.probe:
            from resmlp_vision import probes  # lightly takes seconds to import

            {"knn": probes.classify_by_neighbours, "linear": probes.train_linear}[args.probe](args)
        else:
            measure(args)
    except torch.OutOfMemoryError:
        raise UserError("the GPU's memory is full; give a smaller --batch-size") from None
    finally:
        leave_processes()


def join_as(args: argparse.Namespace) -> torch.device:
    """Join the processes that measure together, as the command line says; return this one's device.

    Raises:
        UserError: there is no such device, or the processes have unequal command lines.
    """
    device = join_processes(args.device)
    agree({f"--{key}": value for key, value in vars(args).items() if key not in OF_A_MACHINE})
    use_precision(args.matmul_precision)
    return device


def measure(args: argparse.Namespace) -> None:
    """Measure a classifier as the command line says."""
    device = join_as(args)
    model = fold(load(args.model, args.checkpoint)).to(device)
    config, norm = read_images_as(model, args)
    names = {name: i for i, name in enumerate(getattr(model, "classes", []))}
    dataset = open_dataset(config, args.split, training=False, classes=names)
    agree_on_data(args.split, dataset)
    count_classes(dataset, model.num_classes)
    found = dataset.reader.class_to_idx
    if found and found != names:
        if len(found) != model.num_classes:
            raise UserError(
                f"data={args.data} has {len(found)} classes but the model has {model.num_classes}; "
                "they cannot be matched"
            )
        if found.keys() & names.keys():
            raise UserError(f"data={args.data} has some of the model's classes under other numbers")
        if names and hasattr(dataset.reader, "dataset"):  # of a folder it has been said
            log.warning("the data's classes have other names than the model's: they are taken in their order")
    real = real_labels(dataset) if args.real else None
    loader = validation_loader(dataset, config, device, **norm)
    outcome: dict[str, Any] = {
        "model": str(args.checkpoint or args.model),
        "data": args.data,
        "split": args.split,
    }
    outcome |= evaluate(model, loader, device, real)
    if torch.distributed.get_rank() > 0:
        return
    if real is not None:
        if outcome["unreadable"]:
            raise UserError(f"--real needs all images, and {outcome['unreadable']} of them cannot be read")
        outcome |= {f"real_top{k}": value for k, value in real.get_accuracy().items()}
    line = f"top-1 {outcome['top1']:.2f}%  top-5 {outcome['top5']:.2f}%  loss {outcome['loss']:.3f}"
    if real is not None:
        line += f"  ReaL top-1 {outcome['real_top1']:.2f}%"
    if outcome["unreadable"]:
        line += f"  without {outcome['unreadable']} images that cannot be read"
    print(f"{line}  ({outcome['images']:,} images of {args.data} {args.split})")
    if args.out:
        write_json(args.out, outcome)


if __name__ == "__main__":
    main()
