"""The recipes that come with the project, by name."""

from pathlib import Path
from typing import Any

import yaml

from resmlp_core.common.errors import UserError

ROOT = Path(__file__).parents[2]


def find_recipe(name: str, kind: Any) -> Path:
    """Find a recipe's YAML file.

    Args:
        name: a path, or the name of a recipe that comes with the project: ``multi30k``, which stands for
            ``multi30k/recipe.yaml``, or ``imagenet/distillation``.
        kind: the dataclass of the command's settings. A recipe with other keys is another command's.

    Raises:
        UserError: there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    folder = ROOT / "resmlp_recipes"  # as a wheel has them
    folder = folder if folder.is_dir() else ROOT / "recipes"
    known = {
        path.relative_to(folder).with_suffix("").as_posix().removesuffix("/recipe"): path
        for path in sorted(folder.glob("*/*.yaml"))
        if yaml.safe_load(path.read_text(encoding="utf-8")).keys() <= kind.__dataclass_fields__.keys()
    }
    if name not in known:
        raise UserError(f"no recipe {name}: give a YAML file, or one of {', '.join(known)}")
    return known[name]
