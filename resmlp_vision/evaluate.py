"""Top-1 and top-5 accuracy: ``python -m resmlp_vision.evaluate --data hfds/ILSVRC/imagenet-1k``.

ImageNet's validation set and ImageNet-V2 are data sets like any other; ``--real`` adds the accuracy on ImageNet-ReaL's
labels. Images are resized to ``size / 0.9`` and their centre is cut out (paper, section 3.1). ``--probe knn`` and
``--probe linear`` measure the features in place of the classifier, as DINO does.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

from resmlp_core import fold
from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.files import write_json
from resmlp_vision.config import CHOICES, LIMITS, OF_A_MACHINE, RunConfig
from resmlp_vision.data.datasets import Images, StreamedImages
from resmlp_vision.data.loaders import naming_lost_workers, settings_for, validation_loader
from resmlp_vision.data.opening import count_classes, open_dataset
from resmlp_vision.distributed import agree, agree_on_data, join_processes, leave_processes, rank, use_precision
from resmlp_vision.evaluation.accuracy import evaluate, real_labels
from resmlp_vision.evaluation.knn import knn, refuse_neighbours
from resmlp_vision.models.loading import add_model_arguments, load
from resmlp_vision.training.linear_probe import linear_probe

log = logging.getLogger(__name__)


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
    parser.add_argument("--real", action="store_true", help="also measure on ImageNet-ReaL's labels")
    parser.add_argument(
        "--probe",
        choices=("knn", "linear"),
        help="measure the features: by the nearest training images, or by a linear classifier trained on them",
    )
    parser.add_argument("--train-split", help="of the probes' training images, '' as in --split (default: train)")
    parser.add_argument("--k", type=int, nargs="+", help="nearest images that vote in --probe knn (default: 10 20)")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="images a process takes at once (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, help="processes that load images, for each that measures (default: one for each core)"
    )
    parser.add_argument(
        "--matmul-precision",
        choices=CHOICES["matmul_precision"],
        default="high",
        help="of float32 products on a GPU: highest is float32 throughout (default: %(default)s, TF32)",
    )
    parser.add_argument(
        "--max-unreadable", type=int, default=100, help="images to skip before it gives up (default: %(default)s)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--out", type=Path, help="a file for the figures, as JSON; with --probe linear the folder of its training"
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
        parser.error("--k is only for --probe knn")
    if args.probe is None and args.train_split is not None:
        parser.error("--train-split is only for --probe")
    if args.probe != "linear" and args.out and (args.out.is_dir() or not args.out.parent.is_dir()):
        parser.error(f"--out {args.out} is to be a file, in a folder that is there")
    args.k = args.k or [10, 20]
    if args.train_split is None:
        args.train_split = "train"
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
        with naming_lost_workers():
            {None: measure_accuracy, "knn": measure_neighbours, "linear": train_linear}[args.probe](args)
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
    agree({f"--{key.replace('_', '-')}": value for key, value in vars(args).items() if key not in OF_A_MACHINE})
    use_precision(args.matmul_precision)
    return device


def data_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the data that the command line gives."""
    settings = {
        "data": args.data,
        "train_split": args.train_split,
        "val_split": args.split,
        "image_key": args.image_key,
        "label_key": args.label_key,
        "val_batch_size": args.batch_size,
        "workers": args.workers,
        "matmul_precision": args.matmul_precision,
        "max_unreadable": args.max_unreadable,
        "device": args.device,
    }
    return settings if args.crop_pct is None else settings | {"crop_pct": args.crop_pct}


def measure_accuracy(args: argparse.Namespace) -> None:
    """Measure a classifier as the command line says."""
    device = join_as(args)
    model = fold(load(args.model, args.checkpoint)).to(device)
    config, wanted = settings_for(model, **data_settings(args))
    dataset = open_for(model, config, args.split)
    real = real_labels(dataset) if args.real else None
    loader = validation_loader(dataset, config, device, **wanted)
    outcome = names_of(args) | evaluate(model, loader, device, real)
    if rank() > 0:
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


def open_for(model: Any, config: RunConfig, split: str) -> Images | StreamedImages:
    """Open a split whose classes a model knows by their names, or in their order where no name is the same.

    Raises:
        UserError: it cannot be opened, the processes see other images, or its classes cannot be matched with the
            model's.
    """
    names = {name: i for i, name in enumerate(getattr(model, "classes", []))}
    dataset = open_dataset(config, split, training=False, classes=names)
    agree_on_data(split, dataset)
    count_classes(dataset, model.num_classes)
    found = dataset.reader.class_to_idx
    if found and not found.keys() & names.keys():  # else evaluate matches them
        if len(found) != model.num_classes:
            raise UserError(
                f"data={config.data} has {len(found)} classes but the model has {model.num_classes}; "
                "they cannot be matched"
            )
        if names and hasattr(dataset.reader, "dataset"):  # of a folder it has been said
            log.warning("the data's classes have other names than the model's: they are taken in their order")
    return dataset


def measure_neighbours(args: argparse.Namespace) -> None:
    """Measure a model's features by the nearest training images, as the command line says."""
    device = join_as(args)
    model = load(args.model, args.checkpoint, classifier=False).to(device)
    config, wanted = settings_for(model, **data_settings(args))
    training = open_dataset(config, args.train_split, training=False)
    validation = open_dataset(config, args.split, training=False, classes=training.reader.class_to_idx)
    for split, images in ((args.train_split, training), (args.split, validation)):
        agree_on_data(split, images)
    count_classes(validation, count_classes(training, None))
    for k in args.k:
        refuse_neighbours(k, len(training))
    bank, queries = (validation_loader(images, config, device, **wanted) for images in (training, validation))
    outcome = names_of(args) | knn(model, bank, queries, args.k, device)
    if rank() > 0:
        return
    for k in args.k:
        print(f"{k}-NN top-1 {outcome[f'knn{k}_top1']:.2f}%")
    by = f"by {outcome['training_images']:,} of {args.train_split}"
    print(f"({outcome['images']:,} images of {args.data} {args.split}, {by})")
    if args.out:
        write_json(args.out, outcome)


def train_linear(args: argparse.Namespace) -> None:
    """Train a linear classifier on a model's features, as the command line says, in ``args.out``."""
    linear_probe(args.model, args.checkpoint, out=args.out, overrides=args.overrides, **data_settings(args))


def names_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures are of, as they name it: the model, the data and the split."""
    return {"model": str(args.checkpoint or args.model), "data": args.data, "split": args.split}


if __name__ == "__main__":
    main()
