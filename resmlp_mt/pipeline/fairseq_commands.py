"""fairseq-train and fairseq-generate as a recipe runs them: their command lines, and what is shown of what they say."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.common.files import naming_if_full, replacing
from resmlp_mt.pipeline.checkpoints import mend_checkpoints, remove_torn
from resmlp_mt.pipeline.fairseq_process import run_fairseq

PLUGIN = Path(__file__).parents[1]


def arguments(*positional: object, **options: Any) -> list[str]:
    """Make a command line for fairseq; an option that is true is a flag, one that is false or None is left out."""
    line = [*map(str, positional), "--user-dir", str(PLUGIN)]
    for name, value in options.items():
        if value is not False and value is not None:
            line += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return line if torch.cuda.is_available() else [*line, "--cpu"]


def announce(program: str, line: Sequence[str]) -> None:
    """Print a command of fairseq's as one would type it."""
    print(f"\n$ fairseq-{program} {shlex.join(line)}", flush=True)


def run_fairseq_train(
    data_bin: Path,
    folder: Path,
    options: Mapping[str, Any],
    matmul_precision: str = "highest",
    module: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Train with fairseq-train in ``folder``, from its last checkpoint if there is one.

    Args:
        data_bin: what to train on.
        folder: for checkpoints and logs.
        options: of fairseq-train.
        matmul_precision: of float32 matrix products on a GPU; ``high`` is TF32.
        module: what is run in place of fairseq_cli.train, which it calls.
        environment: variables to set for that.

    Raises:
        UserError: it failed.
        OSError: the disk is full; what was half-written is removed.
    """
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    line = arguments(
        data_bin,
        **options,
        **{"save-dir": checkpoints, "tensorboard-logdir": folder / "tensorboard", "log-format": "json"},
    )
    # PyTorch reads it at its start
    variables = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": str(int(matmul_precision == "high")), **(environment or {})}
    keep_memory = not torch.cuda.is_available()
    if int(os.environ.get("RANK", 0)):
        return run_fairseq("train", line, lambda text: None, keep_memory, module, variables)
    mend_checkpoints(checkpoints)
    announce("train", line)
    try:
        with naming_if_full(folder), open(folder / "train.log", "a", encoding="utf-8") as log:

            def follow(text: str) -> None:
                log.write(text)
                if found := re.search(r"\| (train_inner|valid) \| (\{.*\})$", text):
                    print(describe_progress(json.loads(found[2])), flush=True)

            run_fairseq("train", line, follow, keep_memory, module, variables)
    except OSError:
        remove_torn(checkpoints)  # what is half-written takes room for nothing
        raise


def describe_progress(stats: Mapping[str, Any]) -> str:
    """Shorten what fairseq-train logs as JSON to a line for the screen."""
    if "valid_loss" in stats:
        return f"epoch {stats['epoch']:>3}  validation loss {stats['valid_loss']}"
    return (
        f"epoch {stats['epoch']:>3}  update {stats['num_updates']:>6}  loss {stats['loss']:>6}  "
        f"{float(stats['wps']):>8,.0f} tokens/s  learning rate {float(stats['lr']):.2g}"
    )


def run_fairseq_generate(data_bin: Path, model: Path, output: Path, subset: str, options: Mapping[str, Any]) -> None:
    """Translate ``train``, ``valid`` or ``test``, unless ``output`` is there.

    ``output`` gets what fairseq-generate prints of the sentences; the rest goes to a .log file beside it.
    """
    if output.exists():
        return
    line = arguments(data_bin, **{"path": model, "gen-subset": subset, "remove-bpe": "sentencepiece"}, **options)
    announce("generate", line)
    with (
        replacing(output) as partial,
        open(partial, "w", encoding="utf-8") as file,
        open(output.with_suffix(".log"), "w", encoding="utf-8") as log,
        tqdm(unit=" sentences", disable=None, leave=False) as bar,
    ):

        def follow(text: str) -> None:
            (file if re.match(r"[A-Z]-\d+\t", text) else log).write(text)
            bar.update(text.startswith("S-"))

        run_fairseq("generate", line, follow)


def count_devices(options: Mapping[str, Any]) -> int:
    """Return how many devices train: those of torchrun, which fairseq would not count, or this machine's.

    Args:
        options: of fairseq-train.
    """
    asked = os.environ.get("WORLD_SIZE") or options.get("distributed-world-size")
    return int(asked or count_gpus(options) or 1)


def count_gpus(options: Mapping[str, Any]) -> int:
    """Return how many GPUs of this machine training may use: none where it is told to use the CPU."""
    return 0 if options.get("cpu") else torch.cuda.device_count()


def share_batch(effective_tokens: int, max_tokens: int, devices: int) -> dict[str, int]:
    """Share one batch of target tokens among devices, each in as few steps as its memory allows.

    Args:
        effective_tokens: of one update, over all devices.
        max_tokens: the most that one device takes in one step.
        devices: their number.

    Returns:
        fairseq-train's ``max-tokens`` and ``update-freq``.
    """
    steps = ceil(effective_tokens / devices / max_tokens)
    return {"max-tokens": round(effective_tokens / devices / steps), "update-freq": steps}
