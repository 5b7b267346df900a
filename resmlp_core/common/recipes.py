"""The recipes that come with the project, by name."""

from pathlib import Path

from resmlp_core.common.errors import UserError

ROOT = Path(__file__).parents[2]


def find_recipe(name: str) -> Path:
    """Find a recipe's YAML file.

    Args:
        name: a path, or the name of a recipe that comes with the project: ``multi30k``, which stands for
            ``multi30k/recipe.yaml``, or ``imagenet/distillation``.

    Raises:
        UserError: there is neither.
    """
    folder = ROOT / "resmlp_recipes"  # as a wheel has them
    folder = folder if folder.is_dir() else ROOT / "recipes"
    for path in (Path(name), folder / name / "recipe.yaml", folder / f"{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.parent.name for path in folder.glob("*/recipe.yaml"))
    raise UserError(f"no recipe {name}: give a YAML file, or one of {', '.join(known)}")
