"""Pictures of a training run: its learning curve, and the matrices A that it learned."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed
import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import MaxNLocator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from resmlp_core.files import replacing


def read_curve(logdir: Path, key: str) -> dict[int, float]:
    """Read one scalar of fairseq's ``--tensorboard-logdir`` by update; a resumed run's later value counts."""
    curve: dict[int, float] = {}
    for file in sorted(logdir.glob("events.*"), key=lambda path: path.stat().st_mtime):
        events = EventAccumulator(str(file)).Reload()
        if key in events.Tags()["scalars"]:
            curve.update((event.step, event.value) for event in events.Scalars(key))
    return dict(sorted(curve.items()))


def draw_learning_curve(logdir: Path, output: Path, title: str) -> None:
    """Draw training loss (under dropout) and validation loss, in bits a token, from fairseq's tensorboard log.

    Validation BLEU joins them where --eval-bleu has logged it.
    """
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for folder, label in (("train_inner", "training"), ("valid", "validation")):
        curve = read_curve(logdir / folder, "loss")
        axes.plot(list(curve), list(curve.values()), label=label, marker="." if folder == "valid" else None)
    axes.set(xlabel="updates", ylabel="loss (bits a token)", title=title)
    axes.grid(alpha=0.3)
    handles = axes.get_lines()
    if bleu := read_curve(logdir / "valid", "bleu"):
        right = axes.twinx()
        handles += right.plot(list(bleu), list(bleu.values()), label="validation BLEU", color="tab:green", marker="x")
        right.set(ylabel="BLEU")
    axes.legend(handles=handles)
    save(figure, output)


def draw_matrices(weights: Mapping[str, Tensor], output: Path, length: int) -> None:
    """Draw A of the first and last layers of encoder and decoder as heat maps.

    Args:
        weights: a checkpoint's parameters by name.
        output: the PNG to write.
        length: positions shown, from the first; rows beyond the training sentences stay as they started.
    """
    figure, grid = plt.subplots(2, 2, figsize=(8, 7), layout="constrained")
    for row, side in zip(grid, ("encoder", "decoder"), strict=True):
        names = [name for name in weights if name.startswith(side) and name.endswith("cross_position.mixer.weight")]
        names.sort(key=lambda name: int(name.split(".")[2]))
        for axes, name in zip(row, (names[0], names[-1]), strict=True):
            matrix = weights[name].float()[:length, :length]
            if side == "decoder":
                matrix = matrix.masked_fill(torch.ones_like(matrix).triu(1).bool(), float("nan"))
            limit = matrix.nan_to_num().abs().max().item()
            image = axes.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
            axes.set(
                title=f"{side}, layer {int(name.split('.')[2]) + 1}", xlabel="position read", ylabel="position written"
            )
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True))
            figure.colorbar(image, ax=axes, shrink=0.8)
    figure.suptitle("A, the learned matrix over positions")
    save(figure, output)


def save(figure: plt.Figure, output: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(output) as partial:
        figure.savefig(partial, format="png", dpi=120)
    plt.close(figure)
