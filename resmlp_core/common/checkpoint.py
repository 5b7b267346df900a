"""Checkpoints read without running what they may carry, written whole; parameters under the names others gave them."""

import argparse
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from resmlp_core.common.errors import UserError
from resmlp_core.common.files import replacing

# torch.load(weights_only=True) refuses types that it has not been told are harmless. Checkpoints of training runs hold
# two such: their options are an argparse.Namespace, and fairseq keeps the counts of --eval-bleu as NumPy arrays, of
# integers, or of doubles where several processes summed them. Nothing else is let in: a checkpoint that carries code is
# refused.
make_array: Any = np.zeros(0).__reduce__()[0]  # what a pickle calls for an array; NumPy keeps it private
torch.serialization.add_safe_globals(
    [
        # with its name beside it: another library's safe_globals([argparse.Namespace]) takes the bare type away again
        (argparse.Namespace, "argparse.Namespace"),
        *(np.ndarray, np.dtype, np.dtypes.Int64DType, np.dtypes.Float64DType),
        # by the names that NumPy 1 and NumPy 2 write
        *((make_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    ]
)

# An image classifier's parameters: (release, timm, ours), to be replaced in this order.
NAMES = (
    ("patch_embed.", "stem.", "stem."),
    ("blocks.{}.norm1.", "blocks.{}.norm1.", "layers.{}.cross_position.pre."),
    ("blocks.{}.attn.", "blocks.{}.linear_tokens.", "layers.{}.cross_position.mixer."),
    ("blocks.{}.gamma_1", "blocks.{}.ls1", "layers.{}.cross_position.post.alpha"),
    ("blocks.{}.norm2.", "blocks.{}.norm2.", "layers.{}.cross_channel.pre."),
    ("blocks.{}.mlp.", "blocks.{}.mlp_channels.", "layers.{}.cross_channel.mixer."),
    ("blocks.{}.gamma_2", "blocks.{}.ls2", "layers.{}.cross_channel.post.alpha"),
)

# The checkpoint that a folder stands for, as resmlp-export, a recipe and the training of a classifier name theirs.
IN_FOLDERS = ("model.safetensors", "model.pt", "last.pth.tar")

# Parameters that every ResMLP has, by the names that others gave them: what stands before them is a wrapper's.
STEMS = ("stem.proj.weight", "patch_embed.proj.weight")
SOUGHT = (*STEMS, *(f"{part}layers.0.cross_channel.mixer.fc1.weight" for part in ("", "encoder.", "decoder.")))
# Wrappers of a part of a model: torch.compile, FSDP and activation checkpointing have their names within.
INNER_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?:\.|$)")
AVERAGED = {"ema", "swa", "averaged"}  # words of a wrapper's name, which tell that it holds averaged weights


def find_checkpoint(path: str | Path) -> str | Path:
    """Return the checkpoint that a folder holds; a file or a URL is one itself.

    Raises:
        UserError: it is a folder without one.
    """
    folder = Path(path)
    if not folder.is_dir():
        return path
    for name in IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    within = " or ".join(sorted({str(found.parent) for name in IN_FOLDERS for found in folder.glob(f"*/{name}")}))
    advice = f"name {within}" if within else "run the recipe to its end, or name a checkpoint"
    raise UserError(f"no {', '.join(IN_FOLDERS[:-1])} or {IN_FOLDERS[-1]} in {folder}: {advice}")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint: weights, or the state of a training run of ours, of timm's or of fairseq's.

    Args:
        path: a file, a folder with one as ``find_checkpoint`` takes it, or a URL, which PyTorch's hub downloads once; a
            hash in its name (name-0123abcd.pth) is checked.

    Raises:
        ValueError: it is not a checkpoint, or carries code, which does not run.
        UserError: it is a folder without one.
    """
    path = find_checkpoint(path)
    try:
        file = download(str(path)) if "://" in str(path) else Path(path)
        if file.suffix == ".safetensors":  # as timm's weights lie on the hub
            from safetensors.torch import load_file

            return dict(load_file(file))
        state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError
        return state  # and no copy, which would lose the patch grid that is kept beside the parameters' names
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except ModuleNotFoundError:
        raise ValueError(f"{path} needs safetensors; it comes with the extras [mt] and [vision]") from None
    except UnpicklingError:
        raise ValueError(f"{path} is not a file of weights, or carries code, which is not run") from None
    except RuntimeError as error:  # of a torn file, or of one with another hash
        raise ValueError(f"{path} is not a file of weights: {str(error).partition(chr(10))[0]}") from None
    except Exception:  # no dictionary, or no pickle at all, whose reading can end in any of them
        raise ValueError(f"{path} is not a file of weights") from None


def download(url: str) -> Path:
    """Download a file into PyTorch's cache, unless it is there; its name begins with a digest of the whole URL."""
    name = Path(urlsplit(url).path).name
    path = Path(torch.hub.get_dir(), "checkpoints", f"{sha256(url.encode()).hexdigest()[:16]}_{name}")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-(?=\d*[a-f])([0-9a-f]{8,})\.", name)  # digits alone are a number of updates, or a date
        torch.hub.download_url_to_file(url, str(path), digest and digest[1])
    return path


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, completely or not at all.

    Raises:
        OSError: the disk is full, or there is no such folder.
    """
    with replacing(path) as partial, open(partial, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # PyTorch's writer hides what the file said behind an error of its own
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def weights_in(state: Mapping[str, Any], sought: Collection[str] = SOUGHT) -> dict[str, Tensor]:
    """Return the weights in a checkpoint under the model's own names.

    A checkpoint keeps them in an entry such as ``state_dict``, and wrappers put something before their names:
    DistributedDataParallel ``module.``, torch.compile ``_orig_mod.``, Lightning mostly ``model.``, DINO ``backbone.``.
    All of it is what stands before the parameters sought. Of several copies the averaged one is taken, then the only
    or the main one, then DINO's teacher, then its student.

    Args:
        state: a checkpoint as it was read, or the parameters by name.
        sought: names of parameters that the model has.

    Returns:
        The parameters by name, with the patch grid that ``grid_of`` tells; all that the checkpoint holds where it has
        none of those sought.
    """
    weights: dict[str, Tensor] = {}
    grids: dict[str, Any] = {}
    for name, entry in walk(state):
        name = INNER_WRAPPERS.sub("", name)
        if isinstance(entry, Tensor):
            weights[name] = entry
        else:
            grids[name] = entry
    known = frozenset(sought)
    found: Counter[str] = Counter()
    for name in weights:
        dots = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        found.update(name[:dot] for dot in dots if name[dot:] in known)
    start = max(found, key=lambda start: (found[start], rank(start)), default="")
    own = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    return with_grid(own, grids.get(start))


def walk(entry: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the tensors in nested mappings by the path to them, and the patch grids by the path to their models."""
    for name, part in getattr(entry, "_metadata", {}).items():
        if "grid" in part:
            yield f"{start}{name}." if name else start, part["grid"]
    for name, value in entry.items():
        if isinstance(value, Tensor):
            yield f"{start}{name}", value
        elif isinstance(value, Mapping):
            yield from walk(value, f"{start}{name}.")


def rank(start: str) -> int:
    """Rank a copy of the weights by what stands before their names; the highest is the one to use."""
    words = set(re.split(r"[._]", start))
    return 3 if words & AVERAGED else 1 if "teacher" in words else 0 if "student" in words else 2


def grid_of(weights: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the height and width of the patch grid of a classifier's weights, if they came with it."""
    return getattr(weights, "_metadata", {}).get("", {}).get("grid")


def with_grid(weights: Mapping[str, Tensor], grid: tuple[int, int] | None) -> dict[str, Tensor]:
    """Give weights their patch grid, where PyTorch keeps the versions of modules: beside the parameters' names."""
    kept: Any = OrderedDict(weights)
    if grid:
        kept._metadata = OrderedDict({"": {"grid": tuple(grid)}})
    return kept


def square_grid(patches: int) -> tuple[int, int] | None:
    """Return the height and width of the square grid of so many patches, None if there is none."""
    side = math.isqrt(patches)
    return (side, side) if side**2 == patches else None


def some_of(weights: Mapping[str, Any]) -> str:
    """Name three of the entries of a checkpoint, for a message."""
    names = [repr(name) for name in list(weights)[:3]]
    return ", ".join(names) + (f" and {len(weights) - 3:,} more" if len(weights) > 3 else "") or "nothing"


def count_parameters(weights: Mapping[str, Tensor]) -> int:
    """Count parameters by name; tied matrices, which a checkpoint may hold more than once, count once."""
    matrices: list[Tensor] = []
    total = 0
    for name, weight in weights.items():
        if name.endswith("version"):  # fairseq's marks of what wrote a checkpoint
            continue
        if weight.dim() > 1 and any(weight.shape == one.shape and weight.equal(one) for one in matrices):
            continue
        matrices += [weight] if weight.dim() > 1 else []
        total += weight.numel()
    return total


def rename(name: str, column: int, to: int) -> str:
    """Translate a parameter's name from one column of ``NAMES`` to another; a name in neither stays."""
    for row in NAMES:
        pattern = re.escape(row[column]).replace(r"\{\}", r"(\d+)")
        if found := re.match(pattern, name):
            return row[to].format(*found.groups()) + name[found.end() :]
    return name


def under_our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename parameters from the release's, timm's or our own names; every α and β comes as ``(dim,)``."""
    column = 0 if "patch_embed.proj.weight" in weights else 1 if any(".ls1" in name for name in weights) else 2
    ours = {rename(name, column, 2): value for name, value in weights.items()}
    return {name: value.flatten() if name.endswith((".alpha", ".beta")) else value for name, value in ours.items()}
