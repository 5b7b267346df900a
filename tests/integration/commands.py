"""fairseq's command lines as a user types them, and what they print."""

import importlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
import torch

import resmlp_mt.plugin

PACKAGE = Path(resmlp_mt.__file__).parent
PLUGIN = ("--user-dir", PACKAGE, "--cpu", "--distributed-world-size", 1)
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(PACKAGE.parent),
    "PYTHONUTF8": "1",
}
# fairseq makes its batches once, in the first epoch that a process sees and by its number, unless told otherwise: a run
# that was resumed in a later epoch then sees other batches than an unbroken one.
SAME_BATCHES_AFTER_RESUMING = ("--update-epoch-batch-itr", "True")
TINY = (
    *("--arch", "resmlp_tiny", "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 32),
    *("--encoder-layers", 1, "--decoder-layers", 1, "--encoder-attention-heads", 2, "--decoder-attention-heads", 2),
    *("--max-source-positions", 100, "--max-target-positions", 100),
)
TRAINING = (
    *("--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam", "--lr", 0.02),
    *("--lr-scheduler", "inverse_sqrt", "--warmup-updates", 10, "--batch-size", 32, "--seed", 1),
    *("--log-format", "json", "--log-interval", 1, "--num-workers", 0, *SAME_BATCHES_AFTER_RESUMING),
)
HYDRA_TRAINING = """
# @package _group_
common: {{user_dir: {plugin}, cpu: true, log_format: json, log_interval: 1}}
optimizer: {{_name: adam, adam_betas: "(0.9,0.98)"}}
lr_scheduler: {{_name: inverse_sqrt, warmup_updates: 10}}
dataset: {{batch_size: 32, num_workers: 0}}
optimization: {{lr: [0.02], max_update: 25}}
checkpoint: {{save_dir: {folder}/checkpoints}}
distributed_training: {{distributed_world_size: 1}}
hydra: {{run: {{dir: {folder}}}}}
"""
STARTED: list[subprocess.Popen] = []


def start(module: str, *arguments: object, **options) -> subprocess.Popen:
    """Start ``python -m module`` in a process of its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=ENVIRONMENT, encoding="utf-8", **{**pipes, **options})
    STARTED.append(process)
    return process


def end_what_is_left() -> None:
    """Kill the processes that a failed test left running."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen, text: str | None = None) -> str:
    """Wait for the process to succeed and return its standard output."""
    out, errors = process.communicate(text, timeout=300)
    assert process.returncode == 0, (out[-2000:], errors[-4000:])
    return out


def fail(process: subprocess.Popen) -> str:
    """Wait for the process to fail and return its last lines."""
    out, errors = process.communicate(timeout=300)
    assert process.returncode not in (0, None), out[-2000:]
    return out[-2000:] + errors[-8000:]


def run(module: str, *arguments: object) -> str:
    return finish(start(module, *arguments))


def train_by_hydra(folder: Path, sections: str) -> Path:
    """Train with fairseq-hydra-train, 25 updates in which the loss must fall; return the checkpoint.

    Args:
        folder: where everything goes.
        sections: YAML of task, model and criterion.
    """
    (folder / "config").mkdir()
    config = HYDRA_TRAINING.format(plugin=PACKAGE, folder=folder) + sections
    (folder / "config" / "tiny.yaml").write_text(config)
    losses = logged(run("fairseq_cli.hydra_train", "--config-dir", folder / "config", "--config-name", "tiny"), "loss")
    assert len(losses) == 25
    assert losses[-1] < losses[0] - 0.5
    return folder / "checkpoints" / "checkpoint_last.pt"


def in_this_process(program: str, *arguments: object) -> str:
    """Run a fairseq program without the seconds that a new process takes to import it; return what it prints."""
    main = importlib.import_module(f"fairseq_cli.{program}").cli_main
    printed = io.StringIO()
    logs = [logging.getLogger(name) for name in ("fairseq.logging.progress_bar", "fairseq_cli.eval_lm")]
    handler = logging.StreamHandler(printed)
    for log in logs:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        with (
            mock.patch("sys.argv", [program, *map(str, arguments)]),
            redirect_stdout(printed),
            warnings.catch_warnings(action="ignore"),  # fairseq's, about parts of its own
        ):
            main()
    finally:
        for log in logs:
            log.removeHandler(handler)
    return printed.getvalue()


def logged(output: str, key: str) -> list[float]:
    """List the values of ``key`` in fairseq's JSON log lines, in order."""
    records = [json.loads(line) for line in re.findall(r'\{"epoch": .*\}$', output, flags=re.MULTILINE)]
    return [float(record[key]) for record in records if key in record]


def printed(output: str, kind: str) -> dict[int, list[list[str]]]:
    """Collect fairseq-generate's lines of a kind (S, T, H, D, P, A, C) as fields, by sentence."""
    lines: dict[int, list[list[str]]] = {}
    for line in output.split("\n"):
        if match := re.match(rf"{kind}-(\d+)\t(.*)", line, flags=re.DOTALL):
            lines.setdefault(int(match[1]), []).append(match[2].split("\t"))
    return lines


def texts(output: str, kind: str = "H") -> dict[int, str]:
    """The text of the best hypothesis (H, D), of the source (S) or of the reference (T) by sentence."""
    return {i: lines[0][-1] for i, lines in printed(output, kind).items()}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["model"]


def refuses_other_dictionaries(
    checkpoint: Path, data: Path, folder: Path, change: Callable[[list[str]], list[str]]
) -> None:
    """Assert that a checkpoint does not translate data whose dictionaries have other lines, made by ``change``."""
    for path in data.iterdir():
        content = path.read_bytes()
        if path.suffix == ".txt":
            content = "".join(f"{line}\n" for line in change(content.decode().splitlines())).encode()
        (folder / path.name).write_bytes(content)
    with pytest.raises(ValueError, match="are not those that the checkpoint was trained with"):
        in_this_process("generate", folder, *PLUGIN, "--path", checkpoint)
