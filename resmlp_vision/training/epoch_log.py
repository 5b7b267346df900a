"""What a training run reports: a line and a JSON record per epoch, curves, and a summary at the end."""

import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from resmlp_core.common.errors import UserError
from resmlp_core.common.files import replacing, write_json
from resmlp_vision.training.learning_curve import draw_learning_curve

Record = dict[str, float]  # of an epoch


class Records:
    """The epochs of a run, in ``log.jsonl`` and ``tensorboard/`` of its folder.

    Args:
        out: the run's folder.
        done: epochs that the run goes on from; what was logged of later ones is dropped, as they are trained anew.
        epochs: of the whole run.

    Raises:
        UserError: the log lacks some of the epochs that are done.
    """

    def __init__(self, out: Path, done: int, epochs: int) -> None:
        self.out = out
        self.epochs = epochs
        self.log = out / "log.jsonl"
        lines = self.log.read_text(encoding="utf-8").splitlines()[:done] if self.log.exists() else []
        if len(lines) < done:
            raise UserError(f"{self.log} has {len(lines)} of the {done} epochs that were trained; give another out")
        with replacing(self.log) as partial:
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        self.records: list[Record] = [json.loads(line) for line in lines]
        self.tensorboard = SummaryWriter(str(out / "tensorboard"), purge_step=done + 1)

    def add(self, record: Record) -> None:
        """Log an epoch, and print a line about it."""
        self.records.append(record)
        line = (
            f"epoch {record['epoch']:>3}/{self.epochs}  training loss {record['train_loss']:.3f}  "
            f"learning rate {record['lr']:.2g}  {record['images_per_second']:,.0f} images/s"
        )
        if "top1" in record:
            line += f"  validation loss {record['val_loss']:.3f}  top-1 {record['top1']:.2f}%"
        if "knn_top1" in record:
            line += f"  k-NN top-1 {record['knn_top1']:.2f}%"
        if "ema_top1" in record:
            line += f"  of the average {record['ema_top1']:.2f}%"
        if record["unreadable"]:
            line += f"  {record['unreadable']:,} images cannot be read"
        left = (self.epochs - record["epoch"]) * record["seconds"]
        print(line + (f"  {left / 60:.0f} min left" if left else ""), flush=True)
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for key, value in record.items():
            self.tensorboard.add_scalar(key, value, int(record["epoch"]))
        self.tensorboard.flush()

    def summarise(self, model: str, parameters: int) -> dict[str, Any]:
        """Write results.json and the learning curve, print a summary, and return the content of results.json."""
        self.tensorboard.close()
        outcome: dict[str, Any] = {
            "model": model,
            "parameters": parameters,
            "epochs": len(self.records),
            "hours": sum(record["seconds"] for record in self.records) / 3600,
            "images_per_second": median(record["images_per_second"] for record in self.records),
        }
        last = self.records[-1]
        outcome |= {key: value for key, value in last.items() if key.endswith(("loss", "top1", "top5"))}
        outcome |= best_epoch(self.records)
        write_json(self.out / "results.json", outcome)
        draw_learning_curve(self.records, self.out / "learning-curve.png", model)
        print()
        for key, value in outcome.items():
            shown = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
            print(f"  {key.replace('_', ' '):<18}{shown}")
        print(f"\nEverything is in {self.out}")
        return outcome


def ranked_by(record: Record) -> str | None:
    """Name what checkpoints are ranked by: top-1 accuracy, of the averaged weights where there are some."""
    return next((key for key in ("ema_top1", "top1", "knn_top1") if key in record), None)


def score(record: Record) -> float | None:
    """Return what a checkpoint is ranked by, None where its epoch was not validated."""
    key = ranked_by(record)
    return record[key] if key else None


def best_epoch(records: Sequence[Record]) -> dict[str, float]:
    """Return the best score, named such as ``best_top1``, and ``best_epoch``; nothing where nothing was validated."""
    name = ranked_by(records[-1])  # the last epoch is validated if any is
    if name is None:
        return {}
    best = max((record for record in records if name in record), key=itemgetter(name))
    return {f"best_{name}": best[name], "best_epoch": best["epoch"]}
