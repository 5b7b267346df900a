"""The command line of a training run, and of its rehearsal."""

import argparse
import json
import logging
import shlex
import sys

from omegaconf import MISSING

from resmlp_core.common.arguments import MINUTES, add_rehearsal_options, refuse_without_rehearsal, starter
from resmlp_core.common.recipes import find_recipe
from resmlp_vision.config import Settings, read_config
from resmlp_vision.data.loaders import naming_lost_workers
from resmlp_vision.distributed import leave_processes
from resmlp_vision.training.rehearsal import rehearse
from resmlp_vision.training.run import train
from resmlp_vision.training.trainer import Trainer


def run_command(
    name: str, description: str, recipe: str, kind: type[Settings], trainer_type: type[Trainer[Settings]]
) -> None:
    """Read the settings from the command line, and train.

    Args:
        name: the module that is run.
        description: what its help says.
        recipe: one that comes with the project, by its name, for the help.
        kind: its settings.
        trainer_type: how it trains.
    """
    parser = argparse.ArgumentParser(prog=f"python -m resmlp_vision.{name}", description=description)
    defaults = {key: "..." if value == MISSING else value for key, value in vars(kind()).items()}
    parser.epilog = "settings and their defaults: " + ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in defaults.items()
    )
    help_config = f"settings: a YAML file, or a recipe of this project by name: {recipe} (default: those below)"
    parser.add_argument("--config", metavar="RECIPE", help=help_config)
    keys = "any setting, such as data=hfds/NAME out=FOLDER lr=0.001; docs/settings.md explains them"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=keys)
    add_rehearsal_options(parser)
    args = parser.parse_intermixed_args()
    refuse_without_rehearsal(parser, args)
    config = read_config(find_recipe(args.config, kind) if args.config else None, args.overrides, kind)
    logging.getLogger("timm").setLevel(logging.WARNING)
    status = 0
    try:
        if args.rehearse:
            title = f"{args.config or 'the defaults'}, {config.model}"
            started = ["-m", f"resmlp_vision.{name}", *(["--config", args.config] if args.config else [])]
            command = starter() + shlex.join([*started, *args.overrides])
            status = rehearse(config, trainer_type, title, command, args.rehearse_minutes or MINUTES, args.price)
        else:
            with naming_lost_workers():
                train(config, trainer_type)
    finally:
        leave_processes()
    if status:
        sys.exit(status)
