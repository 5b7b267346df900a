"""The picture of a training run: its learning curve."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from resmlp_core.inspect.plots import save


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
