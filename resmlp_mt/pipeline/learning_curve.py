"""The picture of a training run: its learning curve."""

from pathlib import Path

import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resmlp_core.inspect.plots import save


def read_curve(logdir: Path, key: str) -> dict[int, float]:
    """Read one scalar of fairseq's ``--tensorboard-logdir`` by update; a resumed run's later value counts."""
    curve: dict[int, float] = {}
    for file in sorted(logdir.glob("events.*")):  # the names begin with the time at which each was begun
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
