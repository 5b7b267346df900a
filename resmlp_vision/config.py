"""The settings of a training run: the released recipe is the default (paper, section 3.1)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, OmegaConf

from resmlp_core.common.errors import UserError, check_known
from resmlp_core.common.settings import reading_settings


@dataclass
class RunConfig:
    """What supervised and self-supervised training have in common."""

    # Data: hfds/NAME for a data set of the hub, hfids/NAME to stream it, or a folder of parquet files or of images
    data: str = MISSING
    train_split: str = "train"  # the split to train on, or the name of its folder
    val_split: str | None = "validation"  # the split to validate on, whose folder may be val; null: no validation
    image_key: str = "image"  # the column of images, where the data are a table
    label_key: str = "label"  # the column of labels, where the data are a table
    max_unreadable: int = 100  # a run stops when a process has skipped more images than this in a pass over the data

    # Model
    model: str = "resmlp_s12"  # a ResMLP, or any other model of timm's
    model_args: dict[str, Any] = field(default_factory=dict)  # options of the model, such as position_mixer: none
    num_classes: int | None = None  # null: as many as the data have
    img_size: int = 224  # side in pixels of what the model is given
    pretrained: bool = False  # start from the weights that timm downloads for this model
    checkpoint: str | None = None  # start from this file of weights, or from a training run's folder
    drop_path: float = 0.05  # stochastic depth: how often a layer's output is dropped for an image in training

    # Optimisation
    epochs: int = 400  # passes over the training images
    batch_size: int = 2048  # images an update, over all processes
    accumulate: int = 1  # parts in which a process computes its share of an update, to spare memory
    opt: str = "lamb"  # any of timm's optimisers
    opt_args: dict[str, Any] = field(default_factory=dict)  # options of the optimiser, such as betas: [0.9, 0.98]
    lr: float = 5e-3  # the learning rate after the warm-up
    weight_decay: float = 0.2  # none on alpha, beta and biases
    clip_grad: float | None = None  # the largest norm of the whole gradient; LAMB clips at 1 by itself
    sched: str = "cosine"  # how the learning rate falls: cosine or step; constant: it stays
    warmup_epochs: float = 5  # epochs in which the learning rate rises from warmup_lr to lr
    warmup_lr: float = 1e-6  # the learning rate at the start of the warm-up
    min_lr: float = 1e-5  # the learning rate at the end of a cosine
    decay_rate: float = 0.1  # with sched: step, what the learning rate is multiplied by every decay_epochs
    decay_epochs: float = 30  # with sched: step, epochs from one decay to the next
    dtype: str = "float32"  # bfloat16 or float16: automatic mixed precision
    # of float32 products on a GPU, as torch.set_float32_matmul_precision takes it. high: TF32, which rounds what enters
    # a product to 10 bits and adds in float32; highest: float32 throughout, at a fraction of the speed
    matmul_precision: str = "high"

    # Crops
    interpolation: str = "bicubic"  # of crops, in training and validation; DINO's views are always bicubic
    crop_pct: float = 0.9  # validation resizes to img_size / crop_pct and crops the centre

    # The run
    out: str = MISSING  # the folder that receives checkpoints, logs and results
    device: str | None = None  # cpu or cuda; null: cuda where there is one
    workers: int | None = None  # processes that load images, for each that trains; null: one for each core
    val_batch_size: int = 256  # images that a process validates at once
    val_every: int = 1  # epochs between validations; the last epoch is always validated
    seed: int = 0  # of all random choices


@dataclass
class Config(RunConfig):
    """What ``python -m resmlp_vision.train`` reads from a YAML file and from ``key=value`` on its command line."""

    freeze_backbone: bool = False  # train only the classifier, re-initialised: a linear probe
    # also keep and validate an exponential moving average of the weights; loading a checkpoint then takes the average
    ema_decay: float | None = None

    # Hard-label distillation: half of the loss is cross-entropy with the teacher's most likely class
    # a model of timm's, with weights that it downloads, or a training run's checkpoint, a file, folder or URL
    teacher: str | None = None

    # Augmentation and regularisation
    smoothing: float = 0.1  # of labels: the share that is spread over all classes
    mixup: float = 0.8  # two images are blended, by a share from the Beta distribution of this α; 0: none
    cutmix: float = 1.0  # a part of an image is replaced by one of another, by a share likewise drawn; 0: none
    repeated_aug: int = 3  # n: an epoch has an n-th of the images, each n times, differently augmented; 0: plain epochs
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"  # a policy of timm's; null: none
    color_jitter: float = 0.4  # strength of random changes of colour, where auto_augment is null
    reprob: float = 0.25  # random erasing: how often a part of an image is filled with noise
    scale: tuple[float, float] = (0.08, 1.0)  # share of the image that a random crop has, from the least to the most
    hflip: float = 0.5  # how often an image is mirrored


@dataclass
class DINOConfig(RunConfig):
    """What ``python -m resmlp_vision.dino`` reads.

    The defaults are those of DINO's own training script (Caron et al., 2021), with two exceptions: ``clip_grad``, and
    the cosine of the learning rate, which begins with the first epoch here and after the warm-up there.
    """

    epochs: int = 300
    batch_size: int = 1024
    opt: str = "adamw"
    lr: float = 2e-3  # 0.0005 for each 256 images
    weight_decay: float = 0.04
    final_weight_decay: float = 0.4  # weight_decay grows to it by a cosine
    clip_grad: float | None = 3.0  # norm of the whole gradient; DINO's authors clip each parameter's
    warmup_epochs: float = 10
    min_lr: float = 1e-6
    drop_path: float = 0.1
    val_every: int = 10  # validation is a k-NN classification against the whole training split

    # Views: two global ones, which the teacher sees too, and smaller local ones
    local_views: int = 8  # number of local views of an image
    local_size: int = 96  # side in pixels; the global ones have img_size
    global_scale: tuple[float, float] = (0.4, 1.0)  # share of the image that a global view has, least and most
    local_scale: tuple[float, float] = (0.05, 0.4)  # share of the image that a local view has
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)  # how often the first, the second, a local view is blurred

    # The projection head, and the teacher, which is an average of the student
    out_dim: int = 65536  # outputs of the head
    hidden_dim: int = 2048  # units of its hidden layers
    bottleneck_dim: int = 256  # units before its last layer
    freeze_last_layer: int = 1  # epochs in which its last layer does not learn
    momentum_teacher: float = 0.996  # share of the teacher that an update keeps; grows to 1 by a cosine
    teacher_temp: float = 0.04  # the softmax's temperature for the teacher's outputs
    warmup_teacher_temp: float = 0.04  # the temperature at the start
    warmup_teacher_temp_epochs: int = 0  # epochs in which the temperature comes to teacher_temp


# What may change between the parts of an interrupted run, as it is no part of what is learnt. With other workers, or in
# other parts, the images are augmented otherwise; all else changes the weights that come out by rounding at most.
FREE = {"data", "image_key", "device", "workers", "val_batch_size", "val_every", "max_unreadable", "out"}
FREE_WITH_LABELS = {"accumulate"}  # DINO's loss follows a mean over each part
OF_A_MACHINE = {"data", "workers"}  # what may differ between the machines of a run
CHOICES = {
    "dtype": ("float32", "bfloat16", "float16"),
    "matmul_precision": ("highest", "high", "medium"),
    "sched": ("cosine", "step", "constant"),
    "interpolation": ("bicubic", "bilinear", "nearest"),
}
# What every number may be, from the least to the most; beyond, a run would fail late, or fill the machine.
SHARE, RATE = (0, 1), (0, 1000)
LIMITS: dict[str, tuple[float, float]] = {
    "img_size": (1, 4096),
    "epochs": (1, 1_000_000),
    "batch_size": (1, 10_000_000),
    "val_batch_size": (1, 100_000),
    "accumulate": (1, 1_000_000),
    "val_every": (1, 1_000_000),
    "workers": (0, 1000),
    "max_unreadable": (0, 1_000_000_000),
    "seed": (0, 2**32 - 1),  # NumPy's
    "num_classes": (1, 10_000_000),
    **dict.fromkeys(("lr", "min_lr", "warmup_lr", "weight_decay", "final_weight_decay"), RATE),
    **dict.fromkeys(
        ("drop_path", "smoothing", "reprob", "hflip", "ema_decay", "momentum_teacher", "decay_rate"), SHARE
    ),
    "clip_grad": (1e-9, 1e9),
    "warmup_epochs": (0, 1_000_000),
    "decay_epochs": (1e-3, 1_000_000),
    "crop_pct": (0.1, 1),
    "repeated_aug": (0, 1000),
    "mixup": (0, 1000),
    "cutmix": (0, 1000),
    "color_jitter": (0, 10),
    # DINO
    "local_views": (0, 100),
    "local_size": (1, 4096),
    "out_dim": (1, 1_000_000),
    "hidden_dim": (1, 32_768),
    "bottleneck_dim": (1, 32_768),
    "freeze_last_layer": (0, 1_000_000),
    "teacher_temp": (1e-3, 100),
    "warmup_teacher_temp": (1e-3, 100),
    "warmup_teacher_temp_epochs": (0, 1_000_000),
    # model_args of a ResMLP
    "depth": (1, 1000),
    "embed_dim": (1, 16_384),
    "patch_size": (1, 4096),
    "in_chans": (1, 1000),
    "mlp_ratio": (1e-3, 1000),
    "layer_scale": (0, 1000),
    "drop_rate": SHARE,
    "drop_path_rate": SHARE,
}
DINO_LIMITS = LIMITS | {"weight_decay": (1e-9, 1000)}  # its growth starts from there
RANGES = ("scale", "global_scale", "local_scale")
Settings = TypeVar("Settings", bound=RunConfig)


def read_config(source: Path | Mapping[str, Any] | None, overrides: Sequence[str], kind: type[Settings]) -> Settings:
    """Read a run's settings.

    Args:
        source: a YAML file with some of the keys, or some keys with their values, or none.
        overrides: ``key=value``, which win over the source.
        kind: which settings there are.

    Raises:
        UserError: no such file, an unknown key (with one that is near it), a value of another type, or one that is
            missing.
    """
    with reading_settings(source, overrides):
        recipe: Any = OmegaConf.load(source) if isinstance(source, Path) else OmegaConf.create(dict(source or {}))
        line = OmegaConf.from_dotlist([override for override in overrides if is_text(override)])
        for override in overrides:
            if not is_text(override):  # YAML has no such characters: it is a file's name, as it stands
                OmegaConf.update(line, *override.split("=", 1))
        for key in (*recipe, *line):
            check_known(str(key), kind.__dataclass_fields__, "key", UserError)
        for key in sorted(OmegaConf.missing_keys(OmegaConf.merge(recipe, line))):
            raise UserError(f"{key}: {source} needs {key}=...")
        for key in [key for key, value in line.items() if value == {}]:  # merged, it would leave what the recipe has
            recipe.pop(key, None)
        merged = OmegaConf.merge(OmegaConf.structured(kind), recipe, line)
        for key in sorted(OmegaConf.missing_keys(merged)):
            raise UserError(f"{key}: give {key}=...")
        config: Settings = OmegaConf.to_object(merged)  # type: ignore[assignment]
    check_values(config)
    return config


def check_values(config: RunConfig) -> None:
    """Raise a UserError for a value of the right type that cannot be meant."""
    if not is_text(config.out):
        raise UserError(f"out={config.out} is a name in another encoding than UTF-8, which TensorBoard cannot write to")
    for key, known in CHOICES.items():
        if getattr(config, key) not in known:
            raise UserError(f"{key}={getattr(config, key)} is none of {', '.join(known)}")
    limits = DINO_LIMITS if isinstance(config, DINOConfig) else LIMITS
    for part in (vars(config), config.model_args, config.opt_args):
        check_numbers(part, limits)
    if config.warmup_epochs > config.epochs:
        raise UserError(f"warmup_epochs={config.warmup_epochs} must not be more than epochs={config.epochs}")
    for key in RANGES:
        bounds = getattr(config, key, (1, 1))
        if not (len(bounds) == 2 and 0 < bounds[0] <= bounds[1] <= 1):
            raise UserError(f"{key}={list(bounds)} must be two shares of the area, the smaller first")
    blur = getattr(config, "blur", (1, 1, 1))
    if not (len(blur) == 3 and all(0 <= share <= 1 for share in blur)):
        raise UserError(f"blur={list(blur)} must be three shares, for the first, the second and the local views")


def is_text(override: str) -> bool:
    """Whether all of it is characters; a file's name that is no UTF-8 comes from the command line with bytes in it."""
    return not any("\ud800" <= character <= "\udfff" for character in override)


def check_numbers(settings: Mapping[str, Any], limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise a UserError for a number that is not finite, or not within its limits."""
    for key, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        least, most = limits.get(key, (-math.inf, math.inf))
        if not least <= value <= most or abs(value) == math.inf:  # no comparison holds for NaN
            bounds = f"from {least} to {most}" if key in limits else "finite"
            raise UserError(f"{key}={value} must be {bounds}")
