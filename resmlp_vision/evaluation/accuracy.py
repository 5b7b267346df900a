"""Top-1 and top-5 accuracy of a classifier, on a data set's labels and on ImageNet-ReaL's."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from timm.data import RealLabelsImagenet
from timm.task import ClassificationEvaluator
from timm.task.evaluator import evaluation_sample_limit
from timm.utils import unwrap_model
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.common.errors import UserError
from resmlp_vision.data.datasets import Images, StreamedImages
from resmlp_vision.data.loaders import loader_for
from resmlp_vision.data.unreadable import UNREADABLE, unreadable_in
from resmlp_vision.distributed import rank, total, world_size


def evaluate(
    model: nn.Module, images: Any, device: torch.device | None = None, real: RealLabelsImagenet | None = None
) -> dict[str, float]:
    """Measure a classifier on all images, over all processes that were joined; those that cannot be read do not count.

    Args:
        model: maps images ``(B, 3, height, width)`` to logits ``(B, classes)``. It is left in evaluation mode. It
            may be wrapped by torch.compile, DistributedDataParallel or timm's average of weights.
        images: a data set as ``loader_for`` takes it, or a loader of batches, which gives each process a share of its
            own. Where the model has ``classes`` and the data set names some of them, classes are matched by name.
        device: of the model; by default that of its parameters.
        real: collects the logits of ImageNet's validation set, in its order; for one process.

    Returns:
        ``loss``, the mean cross-entropy; ``top1`` and ``top5`` in percent; ``unreadable``, a number of images, and
        ``images``, that of the others.

    Raises:
        UserError: more images than the data set's limit cannot be read, or none can; or of the data set's classes the
            model has some and lacks others.
    """
    device = device or device_of(model)
    plain = unwrap_model(model)
    renumbered = renumbering({name: i for i, name in enumerate(getattr(plain, "classes", ()))}, images)
    loader = loader_for(plain, images, device)
    evaluator = ClassificationEvaluator(device)
    model.eval()
    for logits, labels in apply_to_images(model, loader, "validation", device, dtype_of(plain)):
        if real is not None:
            real.add_result(logits)
        evaluator.update(logits, renumbered(labels))
    count = int(total(evaluator.counts[0]))
    if not count:
        raise UserError("none of the images can be read")
    outcome = evaluator.compute(distributed=dist.is_initialized())
    return {**outcome, "unreadable": unreadable_in(loader).finish(), "images": count}


def apply_to_images(
    model: Callable[[Tensor], Tensor], loader: Any, name: str, device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what a model makes of a loader's images, and their labels, batch by batch, with a progress bar.

    Images that cannot be read are left out. Each of the others comes once over all processes.

    Args:
        model: maps images ``(B, 3, height, width)`` to ``(B, ...)``.
        loader: of validation images; timm's counts those that cannot be read.
        name: of the progress bar.
        device: of the model.
        dtype: of what it takes; None for the images' own.

    Raises:
        UserError: more images than the data set's limit cannot be read.
    """
    limit, seen = evaluation_sample_limit(loader), 0
    unreadable = unreadable_in(loader)
    quiet = None if rank() == 0 else True
    for images, labels in tqdm(loader, desc=name, unit=" batches", disable=quiet, leave=False):
        unreadable.refuse_more()
        count = len(labels) if limit is None else max(0, min(len(labels), limit - seen))
        seen += len(labels)
        with torch.inference_mode():
            outputs = model(images.to(device, dtype))
        outputs, labels = outputs[:count], labels.to(device)[:count]  # what is behind fills the last process's batch
        if unreadable.count.value:  # to choose among rows, a GPU is waited for
            known = labels != UNREADABLE
            outputs, labels = outputs[known], labels[known]
        yield outputs, labels
    unreadable.refuse_more()


def renumbering(known: Mapping[str, int], images: Any) -> Callable[[Tensor], Tensor]:
    """Return what turns a data set's labels into the known numbers of the classes of the same names.

    Training orders folders by their numbers, 2 before 10, and torchvision's ``ImageFolder`` by their characters.

    Args:
        known: the numbers by name.
        images: a data set or a loader. Labels stay as they are where it does not name its classes, has a
            ``target_transform``, or has none of the known names.

    Raises:
        UserError: some of its classes are known and others are not.
    """
    own = numbers_of(images)
    if not own.keys() & known.keys() or own.items() <= known.items():
        return lambda labels: labels
    if unknown := [name for name in own if name not in known]:
        raise UserError(f"the data set has the class {unknown[0]!r}, which is none of the {len(known)} known ones")
    numbers = torch.zeros(max(own.values()) + 1, dtype=torch.long)
    for name, number in own.items():
        numbers[number] = known[name]
    return lambda labels: numbers.to(labels.device)[labels]


def numbers_of(images: Any) -> Mapping[str, int]:
    """Return the numbers that a data set, or a loader's, gives its classes by name; none where it does not say."""
    while images is not None and getattr(images, "target_transform", None) is None:
        if hasattr(images, "class_to_idx"):
            return dict(images.class_to_idx)
        images = getattr(images, "dataset", getattr(images, "reader", None))
    return {}


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Return the type of a model's first parameter of floating-point numbers, which images meet; None without one."""
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)


def real_labels(dataset: Images | StreamedImages) -> RealLabelsImagenet:
    """Prepare ImageNet-ReaL's labels for the validation set in the order of a data set.

    Raises:
        UserError: the images are not named as in ImageNet's validation set, or do not come in order.
    """
    if isinstance(dataset, StreamedImages) or world_size() > 1:
        raise UserError("--real needs the images in order: one process, and no stream")
    names = [re.search(r"ILSVRC2012_val_\d{8}", str(name)) for name in dataset.filenames(basename=True)]
    if len(names) != 50_000 or not all(names):
        raise UserError("--real needs the 50,000 images of ImageNet's validation set under their own names")
    return RealLabelsImagenet([f"{name[0]}.JPEG" for name in names if name])
