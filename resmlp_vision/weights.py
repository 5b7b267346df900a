"""Weights under other names: the authors' release and timm's models, in and out, and A for another patch grid."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resmlp_core import Affine, CrossPositionLinear
from resmlp_core.checkpoint import read_checkpoint, rename, under_our_names, weights_in
from resmlp_vision.model import ResMLP

log = logging.getLogger(__name__)


def fit_weights(weights: Mapping[str, Tensor], model: ResMLP) -> dict[str, Tensor]:
    """Rename and resample weights for a model, from the release's, timm's or our own names.

    A post-Aff's β, which the release does not have, is zero. A classifier that the checkpoint lacks, or has for another
    number of classes, is left as the model has it, and A is resampled when the model's patch grid is another; both are
    logged.

    Args:
        weights: a checkpoint's parameters by name.
        model: gives the shapes.

    Returns:
        Parameters under the names of ``model.state_dict()``, and whatever else the checkpoint holds.
    """
    own, fitted = model.state_dict(), under_our_names(weights)
    for name, value in own.items():
        if name.endswith("post.beta"):
            fitted.setdefault(name, torch.zeros_like(value))
    classes = [len(state["head.weight"]) if "head.weight" in state else 0 for state in (fitted, own)]
    if classes[0] != classes[1]:
        if classes[1]:
            log.warning("the checkpoint has %d classes, the model %d: the classifier is re-initialised", *classes)
        fitted = {name: value for name, value in fitted.items() if not name.startswith("head.")}
        fitted |= {name: value for name, value in own.items() if name.startswith("head.")}
    mixer, grid = "layers.0.cross_position.mixer.weight", model.stem.grid_size
    patches = [len(state[mixer]) if mixer in state else 0 for state in (fitted, own)]
    if all(patches) and patches[0] != patches[1]:
        log.warning("the checkpoint is for %d patches, the model for %d: A is resampled", *patches)
        fitted = resample(fitted, model)
    elif all(patches) and grid[0] != grid[1] and math.isqrt(patches[0]) ** 2 == patches[0]:
        log.warning("the checkpoint's %d patches are taken for a grid of %dx%d, as the model's are", patches[0], *grid)
    return fitted


def resample(weights: Mapping[str, Tensor], model: ResMLP) -> dict[str, Tensor]:
    """Resample A and its bias from a square patch grid to the model's, in both of A's positions.

    The new A resizes its input to the old grid, applies the old A and resizes the result to the new grid, so that what
    is constant stays constant, whatever the grids.

    Raises:
        ValueError: the old grid is not square.
    """
    new, resampled = model.stem.grid_size, dict(weights)
    for name, value in weights.items():
        if name.endswith("cross_position.mixer.weight"):
            side = math.isqrt(value.size(0))
            if side**2 != value.size(0):
                raise ValueError(f"{name} is for {value.size(0)} positions, which are no square grid to resample")
            out, back = resizing((side, side), new).to(value), resizing(new, (side, side)).to(value)
            resampled[name] = out @ value @ back
            bias = name.removesuffix("weight") + "bias"
            resampled[bias] = out @ weights[bias]
        elif name.startswith("pool.") and name.endswith("cross_position.weight"):  # Class-MLP's: one row
            side = math.isqrt(value.size(1) - 1)
            back = resizing(new, (side, side)).to(value)
            resampled[name] = torch.cat([value[:, :1], value[:, 1:] @ back], 1)
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
        ValueError: the model is one of the paper's ablations, which timm does not have.
    """
    if not isinstance(model.norm, Affine) or not mixes_linearly(model) or model.global_pool != "avg":
        raise ValueError("timm's resmlp models have Aff, the linear layer over positions and average pooling alone")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    carried = torch.zeros_like(weights["norm.beta"])
    for i in range(len(model.layers)):
        for sublayer in (f"layers.{i}.cross_position", f"layers.{i}.cross_channel"):
            weights[f"{sublayer}.pre.beta"] += weights[f"{sublayer}.pre.alpha"] * carried
            carried += weights.pop(f"{sublayer}.post.beta")
    weights["norm.beta"] += weights["norm.alpha"] * carried
    named = {rename(name, 2, 1): value for name, value in weights.items()}
    return {n: v.view(1, 1, -1) if n.endswith((".alpha", ".beta")) else v for n, v in named.items()}


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights, under the release's, timm's or our own names, into a model.

    Raises:
        ValueError: it does not fit; the message names the file and the first parameter that is missing, unknown or of
            another shape.
    """
    load_weights(model, weights_in(read_checkpoint(path)), str(path))


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Load weights into a model; what ``load_checkpoint`` raises names ``path``."""
    own, fitted = model.state_dict(), dict(weights)
    if isinstance(model, ResMLP):
        fitted = fit_weights(fitted, model)
    for name in sorted(own.keys() | fitted.keys()):
        if name not in own or name not in fitted:
            problem = f"{name} is {'not in the checkpoint' if name in own else 'not in the model'}"
        elif own[name].shape != fitted[name].shape:
            shapes = tuple(fitted[name].shape), tuple(own[name].shape)
            problem = f"{name} has shape {shapes[0]} in the checkpoint and {shapes[1]} in the model"
        else:
            continue
        raise ValueError(f"{path} does not fit the model: {problem}")
    model.load_state_dict(fitted)
