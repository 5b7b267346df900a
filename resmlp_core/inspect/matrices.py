"""What training has made of a model: A, B, C and the scales α of its layers, read from a checkpoint and measured."""

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resmlp_core.common.checkpoint import (
    count_parameters,
    grid_of,
    read_checkpoint,
    some_of,
    square_grid,
    under_our_names,
    weights_in,
)
from resmlp_core.common.errors import UserError
from resmlp_core.layers.convolution import ConvolvedMixer
from resmlp_core.layers.cross_position import CrossPositionLinear
from resmlp_core.layers.gate import GatedMixer

SMALL = 0.05  # a weight is small below this share of its matrix's largest magnitude (paper, figure 3)
BAND = 16  # positions before and after a position's own
CROP = 0.9  # share of an image's shorter side that evaluation sees of released models, whose files do not tell
# Where mixers keep A, by the name of the parameter; of what has several, the first is A.
MATRICES = (GatedMixer.matrix, ConvolvedMixer.matrix, CrossPositionLinear.matrix)
# what the names of parameters begin with: those of a part's layers, and within a layer those of a sublayer's scales
PARTS = {"trunk": "", "encoder": "encoder.", "decoder": "decoder."}
SUBLAYERS = {"cross-position": "cross_position.", "cross-attention": "encoder_attn_", "cross-channel": "cross_channel."}


@dataclass(frozen=True)
class Layer:
    """One layer's parameters.

    Attributes:
        matrices: ``A``, ``(positions, positions)``, whose row t says what position t reads; ``B``, ``(hidden, dim)``;
            ``C``, ``(dim, hidden)``.
        causal: A is lower-triangular, and its upper triangle no parameter.
        scales: α by place, ``pre`` or ``post``, then by name in ``SUBLAYERS``, each ``(dim,)``. Where LayerNorm stands
            in the pre position it is LayerNorm's gain.
    """

    matrices: dict[str, Tensor]
    causal: bool
    scales: dict[str, dict[str, Tensor]]

    def shown(self, positions: int) -> Tensor:
        """Return A between the first positions, its upper triangle NaN where it is causal."""
        matrix = self.matrices["A"][:positions, :positions]
        return matrix.masked_fill(torch.ones_like(matrix).triu(1).bool(), math.nan) if self.causal else matrix

    def measure(self, positions: int) -> dict[str, Any]:
        """Measure the layer.

        Args:
            positions: the first ones, to which the band and ``A_shown`` are restricted.

        Returns:
            ``sparsity``: the share of small weights in A, B, C and, where A has more positions, in ``A_shown``;
            ``largest``: the largest magnitude in each; ``scales``: mean, 10th and 90th percentile of the magnitude of α
            by place and sublayer; ``band``: the mean magnitude of A[t, t + k] over t, by k.
        """
        whole, shown = self.shown(len(self.matrices["A"])), self.shown(positions)
        matrices = self.matrices | {"A": whole} | ({"A_shown": shown} if len(shown) < len(whole) else {})
        magnitudes = {name: matrix[~matrix.isnan()].abs() for name, matrix in matrices.items()}
        reach = min(BAND, len(shown) - 1)
        return {
            "sparsity": {name: sparsity(values) for name, values in magnitudes.items()},
            "largest": {name: values.max().item() for name, values in magnitudes.items()},
            "scales": {
                place: {sublayer: spread(alpha.abs()) for sublayer, alpha in scales.items()}
                for place, scales in self.scales.items()
            },
            "band": {k: shown.diagonal(k).abs().mean().item() for k in range(-reach, 1 if self.causal else reach + 1)},
        }


@dataclass(frozen=True)
class Model:
    """A model's layers, and what its checkpoint says of it.

    Attributes:
        parts: layers by part: the ``trunk`` of an image classifier; ``encoder`` and ``decoder`` of a translation model.
        architecture: the name that it was trained under, if the checkpoint tells.
        parameters: their number; tied ones count once.
        pre_norm: what stands before the mixers, ``Aff`` or ``LayerNorm``.
        grid: height and width of the patch grid; None for text, and where the checkpoint does not tell it and the
            number of patches is no square.
        crop: of an image model, the share of an image's shorter side that its evaluation sees, in the middle.
    """

    parts: dict[str, list[Layer]]
    architecture: str | None
    parameters: int
    pre_norm: str
    grid: tuple[int, int] | None
    crop: float

    def matrices(self, positions: int, most_layers: int | None = None) -> dict[str, dict[int, Tensor]]:
        """Return A between the first positions, by part and number of the layer, of all or evenly spaced layers."""
        return {
            part: {i + 1: layers[i].shown(positions) for i in spaced(len(layers), most_layers or len(layers))}
            for part, layers in self.parts.items()
        }

    @property
    def of_images(self) -> bool:
        """Whether it classifies images."""
        return "trunk" in self.parts


def spaced(count: int, most: int) -> list[int]:
    """Choose indices below ``count``, evenly spaced from the first to the last: all of them, or ``most``."""
    chosen = min(count, most)
    return [round(i * (count - 1) / max(1, chosen - 1)) for i in range(chosen)]


def sparsity(magnitudes: Tensor) -> float:
    """Return the share of weights under ``SMALL`` of the largest."""
    return (magnitudes < SMALL * magnitudes.max()).sum().item() / magnitudes.numel()


def spread(values: Tensor) -> dict[str, float]:
    """Return the mean, and the 10th and 90th percentiles."""
    return {
        "mean": values.mean().item(),
        "percentile_10": values.quantile(0.1).item(),
        "percentile_90": values.quantile(0.9).item(),
    }


def read_model(path: str | Path) -> Model:
    """Read the layers in a checkpoint of fairseq or of a classifier's training run, or in a file of released weights.

    Args:
        path: a file or a URL.

    Raises:
        UserError: it is no checkpoint, carries code, has no matrix A, or its weights are not finite or not whole.
    """
    try:
        state = read_checkpoint(path)
    except ValueError as error:
        raise UserError(str(error)) from None
    held = weights_in(state)
    weights = under_our_names(held)
    try:
        parts = {part: read_layers(weights, prefix) for part, prefix in PARTS.items()}
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not any(parts.values()):
        if any("cross_channel.mixer" in name for name in weights):
            raise UserError(f"{path} has no matrix A to look into: something else mixes its model's positions")
        raise UserError(
            f"{path} is not a checkpoint of a ResMLP: it has no matrix A over positions, "
            f"(encoder.|decoder.)layers.N.cross_position.mixer.weight, but {some_of(held)}"
        )
    settings = run_settings(state)
    return Model(
        parts={part: layers for part, layers in parts.items() if layers},
        architecture=settings.get("arch") or settings.get("model") or settings.get("_name"),
        parameters=count_parameters(weights),
        pre_norm="LayerNorm" if any(name.endswith("cross_position.pre.weight") for name in weights) else "Aff",
        grid=(grid_of(held) or square_grid(len(parts["trunk"][0].matrices["A"]))) if parts["trunk"] else None,
        crop=settings.get("crop_pct") or CROP,
    )


def read_layers(weights: Mapping[str, Tensor], prefix: str) -> list[Layer]:
    """Read the layers that have an A, of those whose parameters' names begin with ``prefix``.

    Raises:
        ValueError: a matrix or α is missing, has weights that are not finite, or is an A that is not square.
    """
    pattern = re.compile(re.escape(prefix) + r"layers\.(\d+)\.cross_position\.mixer\.(.+)")
    found = [match for match in map(pattern.fullmatch, weights) if match]
    layers = []
    for number in sorted({int(match[1]) for match in found if match[2] in MATRICES}):
        layer = f"{prefix}layers.{number}."
        candidates = [f"{layer}cross_position.mixer.{matrix}" for matrix in MATRICES]
        names = {
            "A": next(name for name in candidates if name in weights),
            "B": f"{layer}cross_channel.mixer.fc1.weight",
            "C": f"{layer}cross_channel.mixer.fc2.weight",
        }
        for name in names.values():
            if name not in weights:
                raise ValueError(f"{name} is missing")
            if not weights[name].isfinite().all():
                raise ValueError(f"{name} is not finite: the training has diverged")
        matrices = {letter: weights[name].float() for letter, name in names.items()}
        shape = tuple(matrices["A"].shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"{names['A']} has the shape {shape}, which is not square")
        scales = read_scales(weights, layer)
        if not scales["post"]:
            raise ValueError(f"{layer[:-1]} has no α, as in a folded model; give the one that was folded")
        layers.append(Layer(matrices, prefix == PARTS["decoder"], scales))
    return layers


def read_scales(weights: Mapping[str, Tensor], layer: str) -> dict[str, dict[str, Tensor]]:
    """Read α, or LayerNorm's gain, of the layer whose parameters' names begin with ``layer``."""
    scales: dict[str, dict[str, Tensor]] = {"pre": {}, "post": {}}
    for place, of_place in scales.items():
        for sublayer, prefix in SUBLAYERS.items():
            for parameter in ("alpha", "weight"):
                alpha = weights.get(f"{layer}{prefix}{place}.{parameter}")
                if alpha is not None:
                    of_place[sublayer] = alpha.float()
    return scales


def run_settings(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of the training run that wrote a checkpoint, those of the model; none if it has none."""
    options, hydra = state.get("args"), state.get("cfg")  # fairseq's are in either
    if options is None and isinstance(hydra, Mapping):
        options = hydra.get("model")
    settings = vars(options) if isinstance(options, argparse.Namespace) else options
    return settings if isinstance(settings, Mapping) else {}
