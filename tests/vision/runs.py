"""Tiny data sets of images, and small settings of the training commands on them."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
import pytest
import torch
from datasets.info import DatasetInfosDict
from PIL import Image

from resmlp_core.common.checkpoint import read_checkpoint

TINY = (
    "model_args={depth: 2, embed_dim: 16, patch_size: 4}",
    *("img_size=8", "epochs=3", "batch_size=8", "opt=adamw", "lr=0.01", "warmup_epochs=1", "workers=0"),
    *("repeated_aug=0", "mixup=0", "cutmix=0", "reprob=0", "device=cpu"),
)
DINO = (  # of the command without labels
    *("model_args={depth: 2, embed_dim: 16, patch_size: 4}", "img_size=16", "local_size=8", "local_views=2"),
    *("out_dim=32", "hidden_dim=16", "bottleneck_dim=8", "epochs=4", "batch_size=8", "lr=0.001", "warmup_epochs=1"),
    *("workers=0", "val_every=2", "device=cpu"),
)
PLAIN = ("auto_augment=null", "color_jitter=0", "hflip=0", "scale=[1,1]", "drop_path=0")  # nothing left to chance


def write_images(folder: Path, classes: int = 2, images: int = 12, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """Write a folder of images whose class is their brightness."""
    random = np.random.default_rng(0)
    for split in splits:
        for label in range(classes):
            (folder / split / f"class{label}").mkdir(parents=True)
            for i in range(images):
                low = 250 * label // classes
                pixels = random.integers(low, low + 250 // classes, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / f"class{label}" / f"{split}{label}{i}.png")
    return folder


def write_tables(
    folder: Path,
    splits: dict[str, list[tuple[dict[str, Any], int]]],
    names: Sequence[str],
    columns: tuple[str, str] = ("image", "label"),
) -> Path:
    """Write images and labels as the hub has data sets: parquet files, and a card that tells how many there are."""
    image, label = columns
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=[*names])})
    counts = datasets.SplitDict()
    for split, rows in splits.items():
        table = datasets.Dataset.from_list([{image: cell, label: number} for cell, number in rows], features=features)
        table.to_parquet(folder / f"{split}.parquet")
        counts.add(datasets.SplitInfo(split, num_bytes=1, num_examples=len(rows)))
    info = datasets.DatasetInfo(features=features, splits=counts)
    DatasetInfosDict({"default": info}).write_to_directory(folder)
    return folder


def start(*arguments: object, module: str = "resmlp_vision.train") -> subprocess.Popen:
    """Start ``python -m module`` in a process of its own."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait(process: subprocess.Popen, until: Callable[[], bool]) -> None:
    """Wait until something is so, as long as a process runs."""
    while not until():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def finish(process: subprocess.Popen) -> str:
    """Wait for the command to succeed; return what it printed."""
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return out


def run(main: Callable[[], None], *arguments: object) -> str:
    """Run a command here, without the seconds that a new process takes to import it; return what it prints.

    No learning curve is drawn: the tests that look at one start a process.
    """
    printed = io.StringIO()
    no_pictures = mock.patch("resmlp_vision.training.epoch_log.draw_learning_curve")
    with no_pictures, mock.patch("sys.argv", ["command", *map(str, arguments)]), redirect_stdout(printed):
        main()
    return printed.getvalue()


def read_log(out: Path) -> list[dict[str, Any]]:
    """Read what a training run logged, an entry an epoch."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def read_figures(out: Path) -> list[dict[str, Any]]:
    """Read what a training run logged, but for the times, which differ between equal runs."""
    return [{**record, "seconds": 0, "images_per_second": 0} for record in read_log(out)]


def lengthen(out: Path) -> None:
    """Let a training run go on for an epoch more, whose settings may not change otherwise."""
    kept = out / "config.yaml"
    longer = re.sub(r"(?m)^epochs: (\d+)$", lambda found: f"epochs: {int(found[1]) + 1}", kept.read_text())
    kept.write_text(longer)


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Return the weights that a training run ended with."""
    return read_checkpoint(out / "last.pth.tar")["state_dict"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two models have the same weights, to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def fail(main: Callable[[], None], *arguments: object) -> str:
    """Run a command that is to end with a message, not with a traceback; return that message."""
    with pytest.raises(SystemExit) as stopped:
        run(main, *arguments)
    message = str(stopped.value)
    assert message not in ("0", "1", "2") and "\n" not in message
    return message


def start_two(module: str, *each: Sequence[object], cwd: Sequence[Path] = ()) -> list[subprocess.Popen]:
    """Start ``python -m module`` as the two processes of a group, each with its own arguments, and its own folder."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=cwd[rank] if cwd else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, arguments in enumerate(each)
    ]


def torchrun(module: str, *arguments: object) -> subprocess.Popen:
    """Start ``python -m module`` in two processes, by torchrun; they end with it."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", module]
    return subprocess.Popen(
        [*line, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
