"""The models of the paper by name, here and in timm."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from resmlp_core.common.errors import check_known
from resmlp_vision.models.resmlp import ResMLP
from resmlp_vision.models.weights import fit_weights, load_checkpoint

# Depth, channels and the start of LayerScale (paper's table of models; the deeper, the smaller).
SIZES: dict[str, dict[str, Any]] = {
    "resmlp_s12": {"depth": 12, "embed_dim": 384, "layer_scale": 0.1},
    "resmlp_s24": {"depth": 24, "embed_dim": 384, "layer_scale": 1e-5},
    "resmlp_s36": {"depth": 36, "embed_dim": 384, "layer_scale": 1e-6},
    "resmlp_b24": {"depth": 24, "embed_dim": 768, "layer_scale": 1e-6},
}
VARIANTS: dict[str, dict[str, Any]] = {
    name + suffix: {**size, "patch_size": patch}
    for name, size in SIZES.items()
    for suffix, patch in (("", 16), ("_p14", 14), ("_p8", 8))
}
# The release's weights as timm's hub has them: our name and the tag of the weights, then the hub's name.
RELEASED = {
    "resmlp_s12.fb_in1k": "timm/resmlp_12_224.fb_in1k",
    "resmlp_s12.fb_distilled_in1k": "timm/resmlp_12_224.fb_distilled_in1k",
    "resmlp_s12.fb_dino": "timm/resmlp_12_224.fb_dino",
    "resmlp_s24.fb_in1k": "timm/resmlp_24_224.fb_in1k",
    "resmlp_s24.fb_distilled_in1k": "timm/resmlp_24_224.fb_distilled_in1k",
    "resmlp_s24.fb_dino": "timm/resmlp_24_224.fb_dino",
    "resmlp_s36.fb_in1k": "timm/resmlp_36_224.fb_in1k",
    "resmlp_s36.fb_distilled_in1k": "timm/resmlp_36_224.fb_distilled_in1k",
    "resmlp_b24_p8.fb_in1k": "timm/resmlp_big_24_224.fb_in1k",
    "resmlp_b24_p8.fb_distilled_in1k": "timm/resmlp_big_24_224.fb_distilled_in1k",
    "resmlp_b24_p8.fb_in22k_ft_in1k": "timm/resmlp_big_24_224.fb_in22k_ft_in1k",
}


def create_model(
    name: str,
    checkpoint_path: str | Path | None = None,
    num_classes: int = 1000,
    img_size: int | tuple[int, int] = 224,
    **overrides: Any,
) -> ResMLP:
    """Build a model of the paper.

    Args:
        name: ``resmlp_s12``, ``resmlp_s24``, ``resmlp_s36`` or ``resmlp_b24``, for patches of 16 pixels, or with
            ``_p14`` or ``_p8`` behind.
        checkpoint_path: a file or URL of weights to load, under the release's, timm's or our own names.
        num_classes: outputs of the classifier.
        img_size: side of an image in pixels, or its height and width.
        overrides: any other argument of ``ResMLP``, such as ``position_mixer="none"``.

    Raises:
        ValueError: an unknown name or override, with one that is near it; released weights are asked for, which timm
            downloads; or the checkpoint does not fit.
    """
    if name in RELEASED or "pretrained" in overrides:
        raise ValueError(f"released weights are loaded by timm.create_model({name!r}, pretrained=True)")
    check_known(name, VARIANTS, "model")
    for key in overrides:
        check_known(key, inspect.signature(ResMLP).parameters, "override")
    options = {"num_classes": num_classes, "img_size": img_size, **overrides}
    model: ResMLP = timm_entry(name)(**options)
    model._model_args = options  # type: ignore[assignment]  # as timm notes them, for a model on the hub
    if checkpoint_path is not None:
        load_checkpoint(model, checkpoint_path)
    return model


def timm_entry(name: str) -> Callable[..., Any]:
    """Make the function by which ``timm.create_model(name)`` builds the model."""

    def build(pretrained: bool = False, **kwargs: Any) -> Any:
        model = build_model_with_cfg(
            ResMLP,
            name,
            pretrained,
            pretrained_filter_fn=fit_weights,
            feature_cfg={"out_indices": 3, "feature_cls": "getter"},
            **{**VARIANTS[name], **kwargs},
        )
        if not kwargs.get("features_only"):  # tells timm's data pipeline the size of images
            model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (model.in_chans, *model.stem.img_size)}
        return model

    build.__name__ = name
    return build


def default_cfg(**more: Any) -> dict[str, Any]:
    """Return what timm's data pipeline reads: the paper's input size, crop, interpolation and normalisation."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.proj",
        "classifier": "head",
        **more,
    }


default_cfgs = generate_default_cfgs(
    {
        name: default_cfg(hf_hub_id=hub, **({"num_classes": 0} if "dino" in name else {}))
        for name, hub in RELEASED.items()
    }
    | {name: default_cfg() for name in VARIANTS if f"{name}.fb_in1k" not in RELEASED}
)
for name in VARIANTS:
    globals()[name] = register_model(timm_entry(name))
