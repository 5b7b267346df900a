"""What frozen features are worth, measured as DINO does: the classes of the nearest images, or a linear classifier.

The crop is the model's own, of 0.9 for ours, where DINO cuts out 0.875.
"""

import argparse
import dataclasses
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from torch import Tensor

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_core.common.errors import UserError
from resmlp_core.common.files import write_json
from resmlp_vision.config import Config, read_config
from resmlp_vision.data.datasets import count_classes, open_dataset, validation_loader
from resmlp_vision.distributed import agree_on_data
from resmlp_vision.evaluate import apply_to_images, join_as, read_images_as
from resmlp_vision.models.loading import load, options_in
from resmlp_vision.train import SupervisedTrainer, train

TEMPERATURE = 0.07  # of the votes of the nearest images
CHUNK = 256  # images whose neighbours are searched at once
# DINO's linear classification: SGD without decay on random crops and flips.
LINEAR: dict[str, Any] = {
    "freeze_backbone": True,
    "epochs": 100,
    "batch_size": 1024,
    "opt": "momentum",
    "lr": 0.004,  # 0.001 for each 256 images
    "weight_decay": 0.0,
    "warmup_epochs": 0,
    "min_lr": 0.0,
    "drop_path": 0.0,
    "smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "repeated_aug": 0,
    "auto_augment": None,
    "color_jitter": 0.0,
    "reprob": 0.0,
}


def classify_by_neighbours(args: argparse.Namespace) -> None:
    """Measure the k-NN accuracy that the command line of ``resmlp_vision.evaluate`` asks for, and print it.

    Raises:
        UserError: the checkpoint or the data do not fit, or there are too few training images.
    """
    device = join_as(args)
    model = load(args.model, args.checkpoint, classifier=False).to(device)
    config, norm = read_images_as(model, args)
    training = open_dataset(config, args.train_split, training=False)
    validation = open_dataset(config, args.split, training=False, classes=training.reader.class_to_idx)
    for split, images in ((args.train_split, training), (args.split, validation)):
        agree_on_data(split, images)
    num_classes = count_classes(training, None)
    count_classes(validation, num_classes)
    for k in args.k:
        refuse_neighbours(k, len(training))
    loaders = [validation_loader(images, config, device, **norm) for images in (training, validation)]
    bank = extract_features(model, loaders[0], device, "training images")
    queries = extract_features(model, loaders[1], device, "validation", gather=False)
    figures: dict[str, Any] = {"model": str(args.checkpoint or args.model), "data": args.data, "split": args.split}
    measured = torch.tensor(len(queries[1]), device=device)
    dist.all_reduce(measured)
    figures |= {"images": int(measured), "training_images": len(bank[1])}
    for k in args.k:
        top1 = measure_knn(bank, queries, num_classes, k)
        figures |= {f"knn{k}_top1": top1}
        if dist.get_rank() == 0:
            print(f"{k}-NN top-1 {top1:.2f}%")
    if dist.get_rank() == 0:
        print(f"({int(measured):,} images of {args.data} {args.split}, by {len(bank[1]):,} of {args.train_split})")
        if args.out:
            write_json(args.out, figures)


def train_linear(args: argparse.Namespace) -> None:
    """Train the linear classifier that the command line of ``resmlp_vision.evaluate`` asks for, in ``args.out``.

    Raises:
        UserError: the checkpoint, the data or a setting does not fit.
    """
    model = load(args.model, args.checkpoint, classifier=False)
    config, _ = read_images_as(model, args)
    settings = {**dataclasses.asdict(config), **LINEAR, "out": str(args.out)}
    if args.checkpoint is None:
        settings |= {"model": args.model, "pretrained": True}
    else:
        trained = options_in(read_checkpoint(args.checkpoint)) or {"model": args.model.split(".")[0]}
        settings |= {key: trained[key] for key in ("model", "model_args") if key in trained}
        settings["checkpoint"] = args.checkpoint
    train(read_config(settings, args.overrides, Config), SupervisedTrainer)


def extract_features(
    model: Any, loader: Any, device: torch.device, name: str, gather: bool = True
) -> tuple[Tensor, Tensor]:
    """Compute the features of all images of a loader, those that cannot be read left out.

    Args:
        model: its ``forward_features`` and ``forward_head`` give what enters a classifier.
        loader: timm's, over whole images.
        device: of the features.
        name: of the progress bar.
        gather: give every process those of all, not its own share alone.

    Returns:
        Features of length 1, ``(N, C)``, and labels ``(N,)``.

    Raises:
        UserError: more images than the data set's limit cannot be read.
    """
    channels = getattr(model, "head_hidden_size", model.num_features)  # some of timm's have a layer in between
    found = [torch.empty(0, channels, device=device)]
    targets = [torch.empty(0, dtype=torch.long, device=device)]
    model.eval()

    def pooled_features(images: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(images), pre_logits=True)

    for features, labels in apply_to_images(pooled_features, loader, name):
        found.append(F.normalize(features.float(), dim=1))
        targets.append(labels)
    loader.dataset.unreadable.finish()
    features, labels = torch.cat(found), torch.cat(targets)
    return (join(features), join(labels)) if gather else (features, labels)


def join(share: Tensor) -> Tensor:
    """Join the rows that the processes have, ``(N of this process, ...)``, to ``(N of all, ...)``."""
    counts: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(counts, len(share))
    filled = torch.cat([share, share.new_zeros(max(counts) - len(share), *share.shape[1:])])
    shares = [torch.empty_like(filled) for _ in counts]
    dist.all_gather(shares, filled)
    return torch.cat([part[:count] for part, count in zip(shares, counts, strict=True)])


def measure_knn(bank: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor], num_classes: int, k: int) -> float:
    """Classify images by the votes of the k nearest, each of which weighs exp(cosine / 0.07).

    Args:
        bank: features ``(N, C)`` and labels ``(N,)`` of the training images, the same in all processes.
        queries: features ``(M, C)`` and labels ``(M,)`` of the images that this process classifies.
        num_classes: how many there are.
        k: how many vote.

    Returns:
        Top-1 accuracy in percent, over all processes.

    Raises:
        UserError: k is below 1, or there are fewer than k training images, or none to classify.
    """
    (features, labels), (asked, answers) = bank, queries
    refuse_neighbours(k, len(labels))
    counts = torch.zeros(2, dtype=torch.long, device=asked.device)
    for part, truth in zip(asked.split(CHUNK), answers.split(CHUNK), strict=True):
        if not len(part):  # this process has none
            continue
        ranked = knn_predict(part, features.t(), labels, num_classes, knn_k=k, knn_t=TEMPERATURE)
        hits = ranked[:, 0] == truth
        counts += torch.stack([hits.sum(), torch.tensor(len(truth), device=hits.device)])
    dist.all_reduce(counts)
    right, total = counts.tolist()
    if not total:
        raise UserError("none of the images can be read")
    return 100 * right / total


def refuse_neighbours(k: int, images: int) -> None:
    """Raise a UserError if k is no number of neighbours, or there are not so many training images."""
    if not 1 <= k <= images:
        raise UserError(f"--k {k} is not between 1 and {images}, the number of training images")
