"""What it takes to repeat a run: its command, the source, the data, the device and the versions of packages."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import fairseq
import torch

from resmlp_core.common.devices import processor
from resmlp_mt.pipeline.fairseq_commands import PLUGIN

PACKAGES = ("torch", "numpy", "sentencepiece", "sacrebleu", "sacremoses", "datasets")


def provenance(settings: Mapping[str, Any], prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what it takes to repeat a run.

    Args:
        settings: of the run.
        prepared: the report of its data, as ``resmlp_mt.prepare.prepare`` gives it.
    """
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": commit(),
        "settings": settings,
        "seed": settings["train"].get("seed", 1),
        "data_sha256": prepared["text"]["sha256"],
        "vocabulary_sha256": prepared["sentencepiece"]["sha256"],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "fairseq": fairseq.__version__}
        | {name: installed_version(name) for name in PACKAGES},
    }


def installed_version(package: str) -> str | None:
    """The version of a package; None where it is not installed, as what a run did not need may not be."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the source that this is run from, "-dirty" if it has changed; None where there is no history."""
    git = ["git", "-C", str(PLUGIN)]
    try:  # git would also tell of a repository in which this is only installed
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        line = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
