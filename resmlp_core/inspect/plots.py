"""Pictures of what training has made of A, B, C and the scales α; every file is written completely or not at all."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter
from PIL import Image
from torch import Tensor

from resmlp_core.common.files import replacing
from resmlp_core.inspect.matrices import spaced

WIDTH = 8  # inches, which are 960 pixels
SIGNED = matplotlib.colormaps["RdBu"].with_extremes(bad="0.88")  # NaN, where there is no weight, is grey
ALL_FILTERS, SOME_FILTERS = 8, 6  # along a side of the patch grid: all if there are no more, some of a larger grid

Layers = Mapping[str, Mapping[int, Tensor]]  # A, by part of the model and number of the layer
Measures = Mapping[str, Sequence[Mapping[str, Any]]]  # of the layers, by part of the model


def draw_matrices(layers: Layers, output: Path) -> None:
    """Draw A of some layers as heat maps.

    Args:
        layers: A by part of the model and number of the layer, ``(positions, positions)``; NaN is no weight.
        output: the PNG to write.
    """
    most = max(map(len, layers.values()))
    figure = draw_panels(layers, 4 if most % 4 == 0 else min(most, 3), label_positions)
    figure.suptitle("A, the learned matrix over positions")
    figure.supxlabel("position read", fontsize="medium")
    figure.supylabel("position written", fontsize="medium")
    save(figure, output)


def label_positions(ax: Axes) -> None:
    """Number the positions along both axes."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_tick_params(labelsize="small")


def draw_filters(layers: Layers, grid: tuple[int, int], output: Path) -> None:
    """Draw rows of A as filters on the patch grid, each where the position is that it writes (paper, figure 2).

    Args:
        layers: A by part of the model and number of the layer, ``(positions, positions)``.
        grid: height and width of the patch grid, in patches. Of a large grid's rows some are drawn, evenly spaced.
        output: the PNG to write.
    """
    rows, columns = (spaced(side, side if side <= ALL_FILTERS else SOME_FILTERS) for side in grid)
    height, width = grid

    def arrange(matrix: Tensor) -> Tensor:
        """Lay the filters out with a line of NaN between."""
        filters = matrix.view(height, width, height, width)[rows][:, columns]
        framed = torch.nn.functional.pad(filters, (0, 1, 0, 1), value=float("nan"))
        return framed.transpose(1, 2).flatten(2).flatten(0, 1)[:-1, :-1]

    def mark(ax: Axes) -> None:
        """Mark in every filter the position written."""
        y = [i * (height + 1) + row for i, row in enumerate(rows) for _ in columns]
        x = [j * (width + 1) + column for _ in rows for j, column in enumerate(columns)]
        ax.plot(x, y, "o", color="black", markeredgecolor="white", markeredgewidth=0.5, markersize=3)
        ax.set(xticks=[], yticks=[], frame_on=False)

    mosaics = {
        part: {number: arrange(matrix) for number, matrix in of_part.items()} for part, of_part in layers.items()
    }
    figure = draw_panels(mosaics, min(2, max(map(len, layers.values()))), mark)
    shown = "Rows" if len(rows) * len(columns) == height * width else f"{len(rows)} × {len(columns)} of the rows"
    figure.suptitle(f"{shown} of A on the {height} × {width} patch grid")
    save(figure, output)


def draw_panels(layers: Layers, columns: int, finish: Callable[[Axes], None]) -> plt.Figure:
    """Draw a heat map a layer, a part of the model beginning a new row.

    A few weights may be many times the others: each heat map's darkest colours begin at the 99th percentile of its
    magnitudes, which its title tells.

    Args:
        layers: what to draw by part and number of the layer.
        columns: heat maps beside one another.
        finish: called for every heat map.
    """
    rows = sum(-(-len(of_part) // columns) for of_part in layers.values())
    side = min(WIDTH / columns, 6)
    size = (side * columns, rows * side * 0.88 + 0.7)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    free = list(grid.flat)
    for part, of_part in layers.items():
        for number, matrix in of_part.items():
            ax = free.pop(0)
            limit = strongest(matrix)
            image = ax.imshow(matrix / limit, cmap=SIGNED, vmin=-1, vmax=1)
            name = f"{part}, layer {number}" if len(layers) > 1 else f"layer {number}"
            ax.set_title(f"{name} (±{limit:.2g})", fontsize="medium" if columns < 4 else "small")
            finish(ax)
        for _ in range(-len(of_part) % columns):
            free.pop(0).remove()
    bar = figure.colorbar(image, ax=figure.axes, shrink=max(0.25, 0.8 / rows), aspect=25, extend="both")
    bar.set_label("weight / the number in brackets", fontsize="small")
    return figure


def strongest(matrix: Tensor) -> float:
    """Return the magnitude at which the darkest colours of a heat map begin: the 99th percentile of what is no NaN."""
    magnitudes = matrix[~matrix.isnan()].abs()
    return magnitudes.kthvalue(math.ceil(0.99 * len(magnitudes))).values.item() or 1.0


def draw_band(parts: Measures, output: Path) -> None:
    """Draw how strongly a position reads those around it.

    Args:
        parts: what ``Layer.measure`` gives of each layer, by part of the model.
        output: the PNG to write.
    """
    size = (WIDTH, 1.9 + 0.28 * max(map(len, parts.values())))
    widths = [len(layers[0]["band"]) + 4 for layers in parts.values()]
    figure, grid = plt.subplots(1, len(parts), figsize=size, layout="constrained", squeeze=False, width_ratios=widths)
    for ax, (part, layers) in zip(grid.flat, parts.items(), strict=True):
        band = torch.tensor([list(layer["band"].values()) for layer in layers])
        offsets = list(layers[0]["band"])
        extent = (offsets[0] - 0.5, offsets[-1] + 0.5, len(layers) + 0.5, 0.5)
        image = ax.imshow(
            band / band.amax(1, keepdim=True).clamp_min(1e-30), vmin=0, vmax=1, aspect="auto", extent=extent
        )
        ax.set(title=part, xlabel="offset k of the position read", ylabel="layer")
        ax.xaxis.set_major_locator(MultipleLocator(4))
        ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.colorbar(image, ax=grid, label="mean |A[t, t + k]| /\nthe layer's largest")
    figure.suptitle("The band around the diagonal of A")
    save(figure, output)


def draw_sparsity(parts: Measures, positions: int, output: Path) -> None:
    """Draw the share of small weights in A, B and C by depth (paper, figure 3).

    Args:
        parts: what ``Layer.measure`` gives of each layer, by part of the model.
        positions: those that it was given.
        output: the PNG to write.
    """
    styles = {"A": "o-", "A_shown": "o:", "B": "s-", "C": "^-"}
    colors = {"A": "tab:blue", "A_shown": "tab:blue", "B": "tab:orange", "C": "tab:green"}
    figure, grid = plt.subplots(1, len(parts), figsize=(WIDTH, 3.6), layout="constrained", squeeze=False, sharey=True)
    for ax, (part, layers) in zip(grid.flat, parts.items(), strict=True):
        for name in layers[0]["sparsity"]:
            label = f"A, first {positions} positions" if name == "A_shown" else name
            shares = [layer["sparsity"][name] for layer in layers]
            ax.plot(range(1, len(layers) + 1), shares, styles[name], color=colors[name], label=label)
        prepare_depth(ax)
        ax.set_title(part if len(parts) > 1 else "")
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    grid[0, 0].set(ylabel="share of the matrix's weights", ylim=(0, None))
    grid[0, -1].legend()
    figure.suptitle("Weights under 5 % of their matrix's largest magnitude")
    save(figure, output)


def draw_scales(parts: Measures, pre_norm: str, output: Path) -> None:
    """Draw the scales before and after each sublayer by depth: the mean magnitude, and 10th to 90th percentile.

    Args:
        parts: what ``Layer.measure`` gives of each layer, by part of the model.
        pre_norm: whose scales those before are, ``Aff``'s or ``LayerNorm``'s.
        output: the PNG to write.
    """
    size = (WIDTH, 0.8 + 2.8 * len(parts))
    figure, grid = plt.subplots(len(parts), 2, figsize=size, layout="constrained", squeeze=False)
    colors = {"cross-position": "tab:blue", "cross-attention": "tab:red", "cross-channel": "tab:orange"}
    for row, (part, layers) in zip(grid, parts.items(), strict=True):
        depth = range(1, len(layers) + 1)
        for ax, place in zip(row, ("pre", "post"), strict=True):
            for sublayer in layers[0]["scales"][place]:
                values = [layer["scales"][place][sublayer] for layer in layers]
                low, mean, high = ([v[key] for v in values] for key in ("percentile_10", "mean", "percentile_90"))
                ax.plot(depth, mean, "o-", color=colors[sublayer], label=sublayer)
                ax.fill_between(depth, low, high, color=colors[sublayer], alpha=0.15, linewidth=0)
            of_layer_norm = place == "pre" and pre_norm == "LayerNorm"
            where = "before the sublayers" if place == "pre" else "after the sublayers"
            ax.set(title=f"{part}, {where}" if len(parts) > 1 else where, ylim=(0, None))
            ax.set_ylabel("|gain of LayerNorm|" if of_layer_norm else "|α| of Aff")
            prepare_depth(ax)
    grid[-1, -1].legend()
    figure.suptitle("Scales by depth: the mean over channels, and the middle 80 % of them")
    save(figure, output)


def prepare_depth(ax: Axes) -> None:
    """Prepare axes for what goes by the number of the layer."""
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.grid(alpha=0.3)


def save(figure: plt.Figure, output: Path) -> None:
    """Write a figure as PNG, completely or not at all."""
    with replacing(output) as partial:
        figure.savefig(partial, format="png", dpi=120)
        Image.open(partial).convert("RGB").save(partial, "PNG")  # nothing is transparent: a tenth smaller
    plt.close(figure)
