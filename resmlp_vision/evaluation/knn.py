"""What features are worth without a classifier, as DINO measures it: the classes of the nearest training images.

The crop is the model's own, of 0.9 for ResMLP, where DINO cuts out 0.875.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.utils import unwrap_model
from torch import Tensor

from resmlp_core.common.errors import UserError
from resmlp_vision.data.loaders import loader_for
from resmlp_vision.data.unreadable import unreadable_in
from resmlp_vision.distributed import join_rows, total
from resmlp_vision.evaluation.accuracy import apply_to_images, device_of, dtype_of, numbers_of, renumbering

TEMPERATURE = 0.07  # of the votes of the nearest images
CHUNK = 256  # images whose neighbours are searched at once


def knn(
    model: Any, training: Any, validation: Any, k: int | Sequence[int] = 20, device: torch.device | None = None
) -> dict[str, float]:
    """Classify images by the training images whose features are nearest, over all processes that were joined.

    Args:
        model: its ``forward_features`` and ``forward_head`` give what enters a classifier. It is left in evaluation
            mode. It may be wrapped, as ``evaluate`` takes it.
        training: the images that vote: a data set, or a loader of batches, as ``evaluate`` takes them.
        validation: the images that are classified, likewise; of classes of the same names, if both name them.
        k: how many of the nearest vote, or several such numbers.
        device: of the model; by default that of its parameters.

    Returns:
        ``images`` and ``training_images``, the numbers of those that can be read, and for each k, such as 20,
        ``knn20_top1``, the top-1 accuracy in percent.

    Raises:
        UserError: more images than a data set's limit cannot be read; k is below 1, or there are fewer than k training
            images, or none to classify; or some of the classes to classify have training images and others have none.
    """
    model = unwrap_model(model)
    device = device or device_of(model)
    renumbered = renumbering(numbers_of(training), validation)
    bank = extract_features(model, loader_for(model, training, device), "training images", device)
    features, labels = extract_features(
        model, loader_for(model, validation, device), "validation", device, gather=False
    )
    queries = features, renumbered(labels)
    asked = int(total(torch.tensor(len(labels), device=device)))
    figures: dict[str, float] = {"images": asked, "training_images": len(bank[1])}
    for number in (k,) if isinstance(k, int | np.integer) else k:
        figures[f"knn{number}_top1"] = measure_knn(bank, queries, number)
    return figures


def extract_features(
    model: Any, loader: Any, name: str, device: torch.device, gather: bool = True
) -> tuple[Tensor, Tensor]:
    """Compute the features of all images of a loader, those that cannot be read left out.

    Args:
        model: its ``forward_features`` and ``forward_head`` give what enters a classifier.
        loader: of whole images.
        name: of the progress bar.
        device: of the model, and of the features.
        gather: give every process those of all, not its own share only.

    Returns:
        Features of length 1, ``(N, C)``, and labels ``(N,)``.

    Raises:
        UserError: more images than the data set's limit cannot be read, or the features are not pooled.
    """
    channels = getattr(model, "head_hidden_size", model.num_features)  # some of timm's have a layer in between
    found = [torch.empty(0, channels, device=device)]
    targets = [torch.empty(0, dtype=torch.long, device=device)]
    model.eval()

    def pooled_features(images: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(images), pre_logits=True)

    for features, labels in apply_to_images(pooled_features, loader, name, device, dtype_of(model)):
        if features.dim() != 2:
            shape = tuple(features.shape[1:])
            raise UserError(f"the model's features of an image are not pooled: {shape}; give it another global_pool")
        found.append(F.normalize(features.float(), dim=1))
        targets.append(labels)
    unreadable_in(loader).finish()
    features, labels = torch.cat(found), torch.cat(targets)
    return (join_rows(features), join_rows(labels)) if gather else (features, labels)


def measure_knn(bank: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor], k: int) -> float:
    """Classify images by the votes of the k nearest, each of which weighs exp(cosine / 0.07).

    Args:
        bank: features ``(N, C)`` and labels ``(N,)`` of the training images, the same in all processes.
        queries: features ``(M, C)`` and labels ``(M,)`` of the images that this process classifies.
        k: how many vote.

    Returns:
        Top-1 accuracy in percent, over all processes.

    Raises:
        UserError: k is below 1, or there are fewer than k training images, or none to classify.
    """
    from lightly.utils.benchmarking import knn_predict  # takes seconds to import

    (features, labels), (asked, answers) = bank, queries
    refuse_neighbours(k, len(labels))
    num_classes = int(labels.max()) + 1
    counts = torch.zeros(2, dtype=torch.long, device=asked.device)
    for part, truth in zip(asked.split(CHUNK), answers.split(CHUNK), strict=True):
        if not len(part):  # this process has none
            continue
        with torch.autocast(part.device.type, enabled=False):  # thousands of cosines are compared
            ranked = knn_predict(part, features.t(), labels, num_classes, knn_k=k, knn_t=TEMPERATURE)
        hits = ranked[:, 0] == truth
        counts += torch.stack([hits.sum(), torch.tensor(len(truth), device=hits.device)])
    right, count = total(counts).tolist()
    if not count:
        raise UserError("none of the images can be read")
    return 100 * right / count


def refuse_neighbours(k: int, images: int) -> None:
    """Raise a UserError if k is no number of neighbours, or there are not so many training images."""
    if not 1 <= k <= images:
        raise UserError(f"k={k} is not between 1 and {images}, the number of training images")
