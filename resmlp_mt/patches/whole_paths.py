"""Keep paths whole: fairseq splits those of data and of ``--path`` at every colon, one within a name too.

``run_10:30/data-bin`` then ends in "No such file or directory: run_10". Here a colon parts two paths only where they
are not the two halves of one that exists.
"""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fairseq import hub_utils, utils
from fairseq.tasks import FairseqTask, LegacyFairseqTask


def split_between_paths(split: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Wrap fairseq's ``split_paths`` so that it joins again what is the path of one file or folder."""

    @wraps(split)
    def split_paths(paths: str, separator: str = os.pathsep) -> list[str]:
        parts, whole = split(paths, separator), []
        separator = utils.MANIFOLD_PATH_SEP if "://" in paths else separator  # as fairseq chooses it
        while parts:
            joined = {end: separator.join(parts[:end]) for end in range(len(parts), 0, -1)}  # the longest first
            end = next((end for end, path in joined.items() if os.path.exists(path)), 1)
            whole.append(joined[end])
            parts = parts[end:]
        return whole

    return split_paths


def only_where_several(has_sharded_data: Callable[[Any, str], bool]) -> Callable[[Any, str], bool]:
    """Wrap a task's method so that one folder is no sequence of them: epochs would be batched otherwise."""

    @wraps(has_sharded_data)
    def several(task: Any, split: str) -> bool:
        data = getattr(getattr(task, "cfg", None) or task.args, "data", "")
        return has_sharded_data(task, split) and len(utils.split_paths(data)) > 1

    return several


def load_by_a_safe_name(from_pretrained: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wrap the hub's ``from_pretrained``, which splits a checkpoint's name itself, so that it is given a link to it."""

    @wraps(from_pretrained)
    def load(model_name_or_path: Any, checkpoint_file: str = "model.pt", *args: Any, **kwargs: Any) -> dict[str, Any]:
        file = Path(str(model_name_or_path), checkpoint_file)
        if os.pathsep not in checkpoint_file or not file.is_file():
            return from_pretrained(model_name_or_path, checkpoint_file, *args, **kwargs)
        with TemporaryDirectory() as folder:
            link = Path(folder, "model.pt")
            link.symlink_to(file.resolve())
            return from_pretrained(model_name_or_path, str(link), *args, **kwargs)  # a whole path, which wins

    return load


def install() -> None:
    """Make fairseq's tasks, programs and hub interface keep paths whole."""
    utils.split_paths = split_between_paths(utils.split_paths)
    hub_utils.from_pretrained = load_by_a_safe_name(hub_utils.from_pretrained)
    for task in (FairseqTask, LegacyFairseqTask):
        task.has_sharded_data = only_where_several(task.has_sharded_data)
