"""Pictures of a training run: its learning curve, and what it confuses."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from torch import Tensor

from resmlp_core.pictures import save


def draw_learning_curve(records: Sequence[dict[str, float]], output: Path, title: str) -> None:
    """Draw loss and accuracy by epoch.

    Args:
        records: one an epoch, as training logs them.
        output: the PNG to write.
        title: of the picture.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, keys in (
        (left, {"train_loss": "training (augmented)", "val_loss": "validation"}),
        (right, {"top1": "top-1", "ema_top1": "top-1, averaged weights", "top5": "top-5", "knn_top1": "k-NN top-1"}),
    ):
        for key, label in keys.items():
            curve = {record["epoch"]: record[key] for record in records if key in record}
            if curve:
                axes.plot(list(curve), list(curve.values()), label=label, marker="." if len(curve) < 30 else None)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    left.set_ylabel("cross-entropy (nats)")
    right.set_ylabel("accuracy on validation (%)")
    figure.suptitle(title)
    save(figure, output)


def draw_confusion(counts: Tensor, names: Sequence[str], output: Path) -> None:
    """Draw a confusion matrix: ``(classes, classes)`` counts, by true class and by predicted class."""
    figure, axes = plt.subplots(figsize=(5.2, 5), layout="constrained")
    axes.imshow(counts.float() ** 0.5, cmap="Blues")
    for i, row in enumerate(counts.tolist()):
        for j, count in enumerate(row):
            if count:
                dark = count > counts.max().item() / 3
                axes.text(j, i, f"{count}", ha="center", va="center", fontsize=9, color="white" if dark else "black")
    accuracy = counts.diagonal().sum().item() / counts.sum().item()
    axes.set(xlabel="predicted", ylabel="true", title=f"{accuracy:.1%} of {int(counts.sum())} test images")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    save(figure, output)
