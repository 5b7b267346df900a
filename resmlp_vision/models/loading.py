"""Classifiers for training and for use: ResMLPs, and any other model of timm's."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm

from resmlp_core.common.checkpoint import STEMS, find_checkpoint, read_checkpoint, some_of, weights_in
from resmlp_core.common.errors import DISK_FULL, UserError, check_known
from resmlp_vision.config import RunConfig
from resmlp_vision.models.registry import RELEASED, VARIANTS, create_model
from resmlp_vision.models.weights import load_weights


def build(config: RunConfig, num_classes: int) -> Any:
    """Build the model that a run trains, with the weights that it starts from.

    Raises:
        UserError: there is no such model or no such option of it, or the checkpoint does not fit.
    """
    options = ({"drop_path_rate": config.drop_path} if config.drop_path else {}) | config.model_args
    if options.get("in_chans", 3) != 3 or options.get("global_pool", "avg") == "":
        raise UserError("model_args: images are RGB (in_chans: 3), and what enters a classifier is pooled")
    base = config.model.partition(".")[0]
    try:
        if base in VARIANTS and config.model in (base, *RELEASED) and (config.checkpoint or not config.pretrained):
            return create_model(base, config.checkpoint, num_classes, config.img_size, **options)
        if config.model not in RELEASED:
            check_known(base, timm.list_models(), "model")
        state = read_checkpoint(config.checkpoint) if config.checkpoint else {}
        if timm.get_pretrained_cfg_value(config.model, "fixed_input_size"):
            options["img_size"] = config.img_size
        if config.pretrained and not state:
            remedy = "checkpoint=FILE takes weights that are here, pretrained=false none"
            return download(config.model, f"model={config.model}", remedy, num_classes=num_classes, **options)
        model = timm.create_model(config.model, num_classes=num_classes, **options)
        if state:
            load_weights(model, state, str(config.checkpoint))
        return model
    except (AssertionError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise UserError(f"model={config.model}: {' '.join(str(error).split())}") from None


def load(name: str, checkpoint: str | Path | None, classifier: bool = True) -> Any:
    """Load a model for use: of a training run, from a file of weights, or the authors', which timm downloads once.

    Args:
        name: a model, or with the tag of released weights behind, such as ``resmlp_s12.fb_distilled_in1k``. A training
            run's checkpoint says itself which model it is.
        checkpoint: a training run's, or weights under the release's, timm's or our own names: a file or a URL.
        classifier: refuse weights without one, such as DINO's.

    Returns:
        The model; ``classes`` of it are the names of the classes, where they are known.

    Raises:
        UserError: there is no such model or no such weights, or the file does not fit.
    """
    model: Any = None
    try:
        if checkpoint is None:
            if name not in RELEASED and f"{name}.fb_in1k" not in RELEASED:
                known = ", ".join(RELEASED)
                raise UserError(f"no weights of {name!r} were released; give --checkpoint, or one of {known}")
            model = download(name, f"--model {name}", "--checkpoint FILE takes weights that are here")
        elif options_in(state := read_checkpoint(checkpoint)):
            model = load_run(state, checkpoint, classifier)
        else:
            weights = weights_in(state)
            classes = len(weights.get("head.weight", ()))
            if classes or not classifier:
                architecture = name.split(".")[0]
                model = create_model(architecture, num_classes=classes)
                load_weights(model, weights, f"{checkpoint}, as --model {architecture},")
            elif not any(name in weights for name in STEMS):
                raise UserError(
                    f"{checkpoint} has no classifier of a ResMLP: neither head.weight nor {' or '.join(STEMS)}, "
                    f"behind any prefix, but {some_of(weights)}"
                )
    except ValueError as error:
        raise UserError(str(error)) from None
    if classifier and not (model and model.num_classes):
        raise UserError(f"{checkpoint or name} has no classifier; evaluate --probe measures its features")
    return model.eval()


def download(name: str, asked: str, remedy: str, **options: Any) -> Any:
    """Make a model with the weights that timm downloads for it.

    Args:
        name: of the model.
        asked: the setting that asks for it.
        remedy: what can be asked for in its place.
        options: of the model.

    Raises:
        UserError: the weights cannot be downloaded.
    """
    try:
        return timm.create_model(name, pretrained=True, **options)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        why = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(f"{asked}: its weights cannot be downloaded ({why}); {remedy}") from None


def options_in(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a checkpoint of ``train``'s; none in any other."""
    args = state.get("args")
    ours = isinstance(args, argparse.Namespace) and {"num_classes", "classes"} <= vars(args).keys()
    return vars(args) if ours else {}


def load_trained(checkpoint: str | Path) -> Any:
    """Load the model of a training run's checkpoint, with the averaged weights where there are some.

    Raises:
        ValueError: it is no such checkpoint, or has lost its classifier.
    """
    return load_run(read_checkpoint(checkpoint), checkpoint)


def load_run(state: Mapping[str, Any], checkpoint: str | Path, classifier: bool = True) -> Any:
    """Load the model of a training run's checkpoint that has been read, as ``load_trained`` does.

    Without ``classifier`` one that the checkpoint has lost is left as it was initialised.
    """
    args = options_in(state)
    if not args:
        raise ValueError(f"{checkpoint} is no checkpoint of a training run of resmlp_vision")
    settings = {key: args[key] for key in RunConfig.__dataclass_fields__ if key in args}
    config = RunConfig(**settings | {"pretrained": False, "checkpoint": None})
    model = build(config, args["num_classes"])
    load_weights(model, state, str(checkpoint), classifier)
    model.classes = args["classes"]
    model.pretrained_cfg |= {"input_size": (3, config.img_size, config.img_size), "interpolation": config.interpolation}
    model.pretrained_cfg |= {"crop_pct": config.crop_pct, "crop_mode": "center"}  # as in the run's validation
    return model.eval()


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a trained model."""
    parser.add_argument(
        "--model",
        default="resmlp_s12.fb_distilled_in1k",
        help=f"one of {', '.join(VARIANTS)}; a tag behind it chooses released weights (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        type=find_checkpoint,
        metavar="FILE",
        help="a training run's folder or checkpoint, which name their model, or a file or URL of weights of --model",
    )
