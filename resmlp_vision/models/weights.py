"""Weights under other names: the authors' release and timm's models, in and out, and A for another patch grid."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import adapt_input_conv
from torch import Tensor, nn

from resmlp_core import Affine, CrossPositionLinear
from resmlp_core.common.checkpoint import (
    SOUGHT,
    grid_of,
    read_checkpoint,
    rename,
    some_of,
    square_grid,
    under_our_names,
    weights_in,
    with_grid,
)
from resmlp_vision.models.resmlp import ResMLP

log = logging.getLogger(__name__)


def fit_weights(weights: Mapping[str, Tensor], model: ResMLP) -> dict[str, Tensor]:
    """Rename and resample weights for a model, from the release's, timm's or our own names.

    A post-Aff's β, which the release does not have, is zero. A classifier that the checkpoint lacks, or has for another
    number of classes, is left as the model has it, and A is resampled when the model's patch grid is another; both are
    logged. Where weights do not tell their grid it is taken to be the model's if that has as many patches, else square.

    Args:
        weights: a checkpoint's parameters by name.
        model: gives the shapes.

    Returns:
        Parameters under the names of ``model.state_dict()``, and whatever else the checkpoint holds.

    Raises:
        ValueError: the grid is another, and is neither known nor square, or an MLP mixes its patches.
    """
    weights = weights_in(weights)
    own, fitted = model.state_dict(), under_our_names(weights)
    for name, value in own.items():
        if name.endswith("post.beta"):
            fitted.setdefault(name, torch.zeros_like(value))
    fitted = fit_classifier(fitted, own, "head")
    patches = [count_patches(state) for state in (fitted, own)]
    old, new = grid_of(weights), model.stem.grid_size
    if not all(patches):  # convolutions serve any grid
        return fitted
    if old is None and patches[0] == patches[1]:
        if square_grid(patches[0]) not in (None, new):
            log.warning(
                "the checkpoint's %d patches are taken for a grid of %dx%d, as the model's are", patches[0], *new
            )
    elif old != new:
        old = old or square_grid(patches[0])
        if old is None:
            raise ValueError(f"it is for {patches[0]} patches, which are no square grid to resample A from")
        log.warning("the checkpoint is for %dx%d patches, the model for %dx%d: A is resampled", *old, *new)
        fitted = resample(fitted, model, old)
    return fitted


def fit_classifier(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Replace a classifier of another number of classes, or a missing one, by the model's, and log it.

    Args:
        weights: a checkpoint's, under the model's names.
        own: the model's.
        name: of the classifier.
    """
    classes = [len(state.get(f"{name}.weight", ())) for state in (weights, own)]
    if classes[0] == classes[1]:
        return dict(weights)
    if classes[1]:
        log.warning("the checkpoint has %d classes, the model %d: the classifier is re-initialised", *classes)
    start = f"{name}."
    kept = {key: value for key, value in weights.items() if not key.startswith(start)}
    return kept | {key: value for key, value in own.items() if key.startswith(start)}


def count_patches(weights: Mapping[str, Tensor]) -> int:
    """Return the patches that weights under our names are for; 0 where no matrix is over them."""
    for name, value in weights.items():
        if name.endswith(("cross_position.mixer.weight", "cross_position.mixer.fc1.weight")) and value.dim() == 2:
            return value.size(1)
        if is_class_row(name):
            return value.size(1) - 1
    return 0


def is_class_row(name: str) -> bool:
    """Whether a parameter, by our name of it, is the row by which Class-MLP reads the patches."""
    return name.startswith("pool.") and name.endswith("cross_position.weight")


def resample(weights: Mapping[str, Tensor], model: ResMLP, old: tuple[int, int]) -> dict[str, Tensor]:
    """Resample A and its bias from another patch grid to the model's, in both of A's positions.

    The new A resizes its input to the old grid, applies the old A and resizes the result to the new grid, so that what
    is constant stays constant, whatever the grids.

    Args:
        weights: the parameters under our names.
        model: has the new grid.
        old: height and width of the grid that the weights are for.

    Raises:
        ValueError: A is not for the old grid, or an MLP stands in A's place.
    """
    new, resampled = model.stem.grid_size, dict(weights)
    out, back = resizing(old, new), resizing(new, old)
    for name, value in weights.items():
        if name.endswith("cross_position.mixer.fc1.weight"):
            raise ValueError(f"{name} is for {old[0]}x{old[1]} patches and cannot be resampled to {new[0]}x{new[1]}")
        if name.endswith("cross_position.mixer.weight") and value.dim() == 2:
            if value.shape != (out.size(1), out.size(1)):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, which is not for {old[0]}x{old[1]} patches")
            resampled[name] = out.to(value) @ value @ back.to(value)
            bias = name.removesuffix("weight") + "bias"
            resampled[bias] = out.to(value) @ weights[bias]
        elif is_class_row(name):
            resampled[name] = torch.cat([value[:, :1], value[:, 1:] @ back.to(value)], 1)  # the embedding's comes first
    return resampled


def mixes_linearly(model: ResMLP) -> bool:
    """Whether every layer mixes positions by A and nothing else."""
    mixers = [module for name, module in model.named_modules() if name.endswith("cross_position.mixer")]
    return len(mixers) == len(model.layers) and all(type(mixer) is CrossPositionLinear for mixer in mixers)


def crop_positions(model: ResMLP, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Return A and its bias for the middle of the patch grid: the sub-matrices of all layers by name, with gradients.

    What they compute is what the whole A would where everything outside the middle is zero.

    Raises:
        ValueError: the grid is larger than the model's.
    """
    height, width = model.stem.grid_size
    if grid[0] > height or grid[1] > width:
        raise ValueError(f"a grid of {grid[0]}x{grid[1]} patches does not fit into the model's {height}x{width}")
    top, left = (height - grid[0]) // 2, (width - grid[1]) // 2
    middle = slice(top, top + grid[0]), slice(left, left + grid[1])
    count = grid[0] * grid[1]
    cropped = {}
    for name, value in model.named_parameters():
        if name.endswith("cross_position.mixer.weight"):
            cropped[name] = value.view(height, width, height, width)[*middle, *middle].reshape(count, count)
        elif name.endswith("cross_position.mixer.bias"):
            cropped[name] = value.view(height, width)[*middle].reshape(count)
    return cropped


def resizing(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Return the matrix, ``(new positions, old positions)``, that resizes an image on a grid bilinearly."""
    basis = torch.eye(old[0] * old[1]).view(-1, 1, *old)
    return F.interpolate(basis, new, mode="bilinear", antialias=True, align_corners=False).flatten(1).t()


def to_timm(model: ResMLP) -> dict[str, Tensor]:
    """Return a model's weights under timm's names, for its ``resmlp_*`` models.

    They have no β in the post position. It adds the same to every position, so it is carried along the residual
    stream and absorbed, exactly, by the β of every later pre-Aff.

    Raises:
        ValueError: the model is one of the paper's ablations, which timm does not have; or it is folded.
    """
    if getattr(model.layers[0], "folded", False):
        raise ValueError("a folded model's Affs are absorbed; give the model that was folded")
    if not isinstance(model.norm, Affine) or not mixes_linearly(model) or model.global_pool != "avg":
        raise ValueError("timm's resmlp models have only Aff, the linear layer over positions and average pooling")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    carried = torch.zeros_like(weights["norm.beta"])
    for i in range(len(model.layers)):
        for sublayer in (f"layers.{i}.cross_position", f"layers.{i}.cross_channel"):
            weights[f"{sublayer}.pre.beta"] += weights[f"{sublayer}.pre.alpha"] * carried
            carried += weights.pop(f"{sublayer}.post.beta")
    weights["norm.beta"] += weights["norm.alpha"] * carried
    named = {rename(name, 2, 1): value for name, value in weights.items()}
    named = {n: v.view(1, 1, -1) if n.endswith((".alpha", ".beta")) else v for n, v in named.items()}
    return with_grid(named, model.stem.grid_size)


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights, under the release's, timm's or our own names, into a model.

    Raises:
        ValueError: it does not fit; the message names the file and the first parameter that is missing, unknown or of
            another shape.
    """
    load_weights(model, read_checkpoint(path), str(path))


def load_weights(model: nn.Module, state: Mapping[str, Any], path: str, classifier: bool = False) -> None:
    """Load the weights in a checkpoint that has been read; what ``load_checkpoint`` raises names ``path``.

    A classifier for another number of classes is left as the model has it. A ResMLP for images of other channels than
    the weights' gets the stem that timm would give it: the sum over channels for a grey image, else the channels
    repeated, and scaled.

    Args:
        model: that gets the weights.
        state: the checkpoint.
        path: of it.
        classifier: refuse weights without a classifier of as many classes as the model's.
    """
    own = model.state_dict()
    fitted = weights_in(state, SOUGHT if isinstance(model, ResMLP) else own)
    named = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    classifiers = (named,) if isinstance(named, str) else named  # two of a model that was distilled
    if classifier:
        for name in classifiers:
            if len(fitted.get(f"{name}.weight", ())) != len(own.get(f"{name}.weight", ())):
                raise ValueError(f"{path} has lost its classifier, {name}; evaluate --probe measures its features")
    if isinstance(model, ResMLP):
        if not any(name in fitted for name in SOUGHT):
            raise ValueError(
                f"{path} does not fit the model: it has no {' or '.join(SOUGHT[:2])}, but {some_of(fitted)}"
            )
        try:
            fitted = fit_weights(fitted, model)
        except ValueError as error:
            raise ValueError(f"{path} does not fit the model: {error}") from None
        stem = fitted["stem.proj.weight"]
        if stem.dim() == 4 and stem.size(1) != model.in_chans:
            log.warning("the checkpoint is for images of %d channels, the model of %d", stem.size(1), model.in_chans)
            fitted["stem.proj.weight"] = adapt_input_conv(model.in_chans, stem, base_chans=stem.size(1))
    elif not own.keys() & fitted.keys():
        raise ValueError(f"{path} does not fit the model: it has none of its names, but {some_of(fitted)}")
    else:
        for name in classifiers:
            fitted = fit_classifier(fitted, own, name)
    if mismatch := first_mismatch(fitted, own):
        raise ValueError(f"{path} does not fit the model: {mismatch}")
    model.load_state_dict(fitted)


def first_mismatch(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """Say which parameter is the first, by name, that a checkpoint or a model lacks, or has in another shape."""
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            return f"{name} is not in the checkpoint"
        if name not in own:
            return f"{name} is not in the model"
        if weights[name].shape != own[name].shape:
            shapes = tuple(weights[name].shape), tuple(own[name].shape)
            return f"{name} has shape {shapes[0]} in the checkpoint and {shapes[1]} in the model"
    return None
