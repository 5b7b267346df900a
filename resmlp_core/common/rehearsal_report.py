"""The report of a rehearsal: its folder, its table, and rehearsal.json."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from resmlp_core.common.devices import gigabytes
from resmlp_core.common.errors import UserError
from resmlp_core.common.figures import as_json, duration, parts, row, span
from resmlp_core.common.files import alone_in, remove, write_json
from resmlp_core.common.rehearsal import Changes, Rehearsal

REPORT = "rehearsal.json"


def folder_of(out: Path) -> Path:
    """Return the folder of a run's rehearsal, beside the run's own."""
    return Path(os.path.abspath(out) + ".rehearsal")  # whole, as the name of "." is empty


@contextmanager
def rehearsing(out: Path) -> Iterator[Path]:
    """Make the folder of a rehearsal, ``OUT.rehearsal`` beside the run's, anew, and hold it while the block runs.

    Raises:
        UserError: there is such a folder, and no rehearsal made it; or another rehearsal is at work there.
    """
    folder = folder_of(out)
    others = [entry for entry in folder.iterdir() if not entry.name.startswith(REPORT)] if folder.exists() else []
    if others and not (folder / REPORT).exists():  # which a rehearsal writes first
        raise UserError(f"{folder} was not made by a rehearsal, which would replace it: move it away")
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        (folder / REPORT).write_bytes(b"")  # marks the folder; what it said before no longer holds
        for earlier in folder.iterdir():
            if earlier.name != REPORT:
                remove(earlier)  # before anything is written: it may be what has filled the disk
        write_json(folder / REPORT, {"can_start": None, "reasons": ["the rehearsal has not ended"]})
        yield folder


def conclude(found: Rehearsal, folder: Path, changes: Changes) -> int:
    """Write rehearsal.json, print the table and what follows from it.

    Returns:
        The exit status: 0 if the run can start, else 1.
    """
    reasons, advice = found.reasons(), found.advice(changes)
    sums = {"verdict": found.verdict, "resumes": found.resumes, "can_start": not reasons}
    report = asdict(found) | sums | {"reasons": reasons, "advice": advice}
    print()
    for reason in reasons:
        print(f"cannot start: {reason}")
    for name, value in rows(found):
        print(f"{name:>24}  {value}")
    for note in found.notes:
        print(f"{'note':>24}  {note}")
    for line in advice:
        print(f"{'change':>24}  {line}")
    print(f"Everything is in {folder}", flush=True)
    if not reasons:
        print(f"To start it:\n{found.command}", flush=True)
    write_json(folder / REPORT, as_json(report))
    return 1 if reasons else 0


def rows(found: Rehearsal) -> Iterator[tuple[str, str]]:
    """Yield the table: what was measured, and its value."""
    for device in dict.fromkeys(found.devices):
        number = found.devices.count(device)
        yield "device", (f"{number} × " if number > 1 else "") + str(device)
    if found.interconnect:
        yield "between GPUs", f"{found.interconnect:.0f} GB/s"
    if found.parameters:
        yield "parameters", f"{found.parameters:,}"
    if found.fits is not None:
        takes = memory_at_peak(found) if found.fits else "does not fit"
        yield "largest batch", f"{found.batch:,} {found.unit}: {takes}"
    if found.largest_batch:
        beyond = "more does not" if found.larger_fails else "more was not tried"
        yield "fits, a tenth to spare", f"{found.largest_batch:,} {found.unit}; {beyond}"
    if found.speed:
        speed = f"{found.speed:,.{0 if found.speed >= 10 else 1}f}"
        yield "speed", f"{speed} {found.unit}/s; data can be loaded at {found.loader_speed:,.0f}"
        yield "an update", parts({name: f"{ms:,.0f}" for name, ms in found.milliseconds.items()}) + " ms"
    if found.resumes is not None:
        told = "the same losses" if found.resumes else f"{row(found.resumed)}, before the kill {row(found.lost)}"
        yield "killed and resumed", told
    if found.losses:
        first, last, most = found.losses[0], found.losses[-1], max(found.losses)
        peak = f", {most:.4g} at most" if most > max(first, last) else ""
        yield "loss", f"{first:.2f} to {last:.2f} in {len(found.losses)} updates{peak}"
        norms, tops = span(found.gradient_norms[-found.ramp or 0 :]), span(found.activations)
        yield f"at a rate of {found.rate:.3g}", f"{found.verdict}; gradient norm {norms}, largest activation {tops}"
    if found.hours:
        whole = parts({name: duration(hours) for name, hours in found.hours.items()})
        yield "the whole run", f"{found.steps:,} updates, {duration(sum(found.hours.values()))}: {whole}"
        if found.price is not None:
            yield "cost", f"{found.price * sum(found.hours.values()):,.2f} at {found.price:g} an hour"
    if found.disk:
        whole = parts({name: gigabytes(size) for name, size in found.disk.items()})
        yield "disk", f"{gigabytes(sum(found.disk.values()))}: {whole}; {gigabytes(found.disk_free)} are free"
    yield "the rehearsal", f"{found.minutes:.1f} minutes"


def memory_at_peak(found: Rehearsal) -> str:
    """Write the memory of the device that needed most, and its share of what there is."""
    most = min((device.memory for device in found.devices), default=0)
    share = f", {100 * found.peak_memory / most:.0f} % of what there is" if most else ""
    return f"{gigabytes(found.peak_memory)} at its peak{share}"
