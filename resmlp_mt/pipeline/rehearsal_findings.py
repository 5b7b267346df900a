"""What the parts of a recipe's rehearsal come to: figures of its training, and what the whole run takes."""

import re
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.dataclass.configs import OptimizationConfig

from resmlp_core.common.devices import emulates
from resmlp_core.common.errors import UserError
from resmlp_core.common.rehearsal import Changes, Rehearsal
from resmlp_mt.data.prepared import read_report
from resmlp_mt.data.sample import Sample
from resmlp_mt.pipeline.projection import hours_of, length_of
from resmlp_mt.pipeline.rehearsed_run import RehearsedRun
from resmlp_mt.pipeline.run import Run

UNSTEADY = 1.3  # times the speed of the slowest quarter of the updates
HALF = {"fp16": "float16", "bf16": "bfloat16"}  # by fairseq's options; its amp leaves a CPU at float32
ONCE = ("optimiser", "communication")  # phases of an update that do not take longer for more batches


def tell_training(found: Rehearsal, run: RehearsedRun) -> None:
    """Take over what the two parts of training have seen; there is no second one where the first failed.

    Raises:
        UserError: the second ended early.
    """
    first, resumed = run.seen["first"], run.seen["resumed"]
    found.devices, found.interconnect = run.devices, first.get("interconnect")
    found.parameters, found.batch, found.fits = first.get("parameters", 0), first.get("batch", 0), first.get("fits")
    found.peak_memory, found.workers = first.get("peak_memory", 0), first.get("workers", 0)
    found.rate = highest_rate(run.settings["train"])
    found.warmup = int(run.settings["train"].get("warmup-updates") or 0)
    tried = first.get("search", []) + resumed.get("search", [])
    found.largest_batch = max([size for size, fits in tried if fits] + [found.batch] * run.roomy, default=0)
    found.larger_fails = any(not fits for _, fits in tried)
    found.losses, found.gradient_norms = list(first.get("losses", [])), list(first.get("gradient_norms", []))
    if not resumed:
        return
    found.lost = [loss for loss, i in zip(found.losses, first["updates"], strict=True) if i >= resumed["updates"][0]]
    again = sum(update <= first["last"] for update in resumed["updates"])
    found.resumed = resumed["losses"][:again]
    found.losses += resumed["losses"][again:]
    found.gradient_norms += resumed["gradient_norms"][again:]
    found.activations, found.ramp = resumed["activations"], resumed["ramp"]
    found.rate = resumed.get("rate", found.rate)
    if "milliseconds" not in resumed:
        raise UserError("fairseq-train ended before its updates were measured")
    together = run.batches_together()
    times = together / first["update_freq"]
    if times > 1:
        found.notes.append(f"an update took {first['update_freq']} of its {together} batches; the times are of all")
    found.milliseconds = {name: ms * (1 if name in ONCE else times) for name, ms in resumed["milliseconds"].items()}
    found.speed = 1000 * times * resumed["update_tokens"] / sum(found.milliseconds.values())
    found.loader_speed = resumed["loader_speed"]
    slowest, fastest = min(resumed["quarters"]), max(resumed["quarters"])
    if fastest > UNSTEADY * slowest:
        found.notes.append(
            f"the speed went from {slowest:,.0f} to {fastest:,.0f} tokens/s: if that is other work, the hours are wrong"
        )


def project(found: Rehearsal, run: RehearsedRun, sample: Sample, took: Mapping[str, float]) -> None:
    """Say what the whole run takes.

    Args:
        found: what training told; it is completed.
        run: that was rehearsed.
        sample: the data that it had.
        took: seconds by stage, and within prepare.
    """
    first, resumed = run.seen["first"], run.seen["resumed"]
    growth = {"read": sample.pairs / sample.read, "train": sample.pairs / sample.taken, "pairs": sample.taken}
    prepared = read_report(run.out)["text"]
    for split, pairs in sample.held_out.items():
        growth[split] = len(pairs) / prepared[split]["kept"]
    batches = run.batches_together() * first["devices"]  # of an update
    length = length_of(run.settings["train"], growth["train"] * first["batches"] / batches)
    growth["candidates"] = len({min(count, length.kept - 2) for count in run.settings["average"]})
    averages = [translating(log) for log in run.folder.glob("valid-*.log")]
    valid, test = float(np.mean(averages)), translating(run.folder / "generate.log")
    seconds = {
        **took,
        "read": sample.seconds,
        "startup": first["startup"],
        "validation": float(np.mean(first["validations"] + resumed["validations"])),
        "save": float(np.mean(first["saves"] + resumed["saves"])),
        "average": took["average"] / len(averages) - valid,
        "generate": took["generate"] - test,
        "translate valid": valid,
        "translate test": test,
    }
    update = batches * first["tokens"] / first["batches"] / found.speed
    found.steps, found.hours = length.updates, hours_of(seconds, growth, length, update)
    found.disk = {name: round(growth["train"] * size_of(run.out / name)) for name in ("text", "data-bin")}
    checkpoint = max(path.stat().st_size for path in (run.folder / "checkpoints").glob("*.pt"))
    found.disk["checkpoints"] = length.kept * checkpoint + 2 * (run.folder / "model.pt").stat().st_size


def changes_of(settings: Mapping[str, Any], found: Rehearsal) -> Changes:
    """Say how a recipe writes what advice may change."""
    train, effective, fewest = settings["train"], settings["effective_tokens"], max(settings["average"])
    run = Run(settings, Path())
    half = [option for option in HALF if train.get(option)]
    cuda = torch.cuda.is_available() and not train.get("cpu")
    emulated = [] if cuda else [f"train.{option}=false" for option in half if emulates(HALF[option])]
    has_bf16 = cuda and all(device.bf16 for device in found.devices)
    keep = "keep-interval-updates" if train.get("save-interval-updates") else "keep-last-epochs"
    kept = train.get(keep) or 0

    def batch(tokens: int) -> str:  # an update keeps the tokens that it has
        if effective:  # named, as it may be made from max-tokens
            return f"train.max-tokens={tokens} effective_tokens={effective}"
        together = run.batches_together()
        steps = ceil(together * found.batch / tokens)
        return f"train.max-tokens={round(together * found.batch / steps)} train.update-freq={steps}"

    return Changes(
        batch=batch,
        workers=lambda number: f"train.num-workers={number}",
        rate=lambda fraction: f"train.lr={fraction * highest_rate(train):g}",
        half="train.bf16=true" if has_bf16 and not (half or train.get("amp")) else None,
        single=" ".join(emulated) or None,
        disk="--out on a larger disk" if 0 < kept <= fewest else f"train.{keep}={fewest}  needs less disk",
        free_batch=bool(cuda and effective and run.batches_together() > 1),
    )


def highest_rate(train: Mapping[str, Any]) -> float:
    """Return the largest of fairseq's learning rates, which are one or, by epoch, several; 0.25 where none is set."""
    rates = train.get("lr")
    rates = OptimizationConfig().lr if rates is None else rates
    return max(float(rate) for rate in re.findall(r"[\d.eE+-]+", str(rates)))


def translating(log: Path) -> float:
    """Return the seconds that fairseq-generate spent on translating, by its own word."""
    told = re.search(r"Translated .* in ([\d.]+)s", log.read_text(encoding="utf-8"))
    return float(told[1]) if told else 0.0


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())
