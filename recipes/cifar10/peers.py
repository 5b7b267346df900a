"""timm's networks of as many parameters as the recipe's ResMLP, trained as the recipe trains it.

    python recipes/cifar10/peers.py OUT NAME [KEY=VALUE ...]

NAME is one of PEERS. OUT/NAME receives what a training writes, and the command can be run again after a kill. For equal
time give each as many epochs as it makes then: ``epochs=N``. Other commands know only the ``vit`` by its name.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock

from resmlp_core.common.errors import UserError, reporting
from resmlp_vision.config import Config, read_config
from resmlp_vision.distributed import leave_processes
from resmlp_vision.training.run import train
from resmlp_vision.training.supervised import SupervisedTrainer

RECIPE = Path(__file__).with_name("recipe.yaml")
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "resmlp": ("resmlp_cifar10", {}),
    "mixer": ("mixer_cifar10", {}),
    "vit": (
        "vit_small_patch16_224",
        {"patch_size": 4, "depth": 6, "embed_dim": 128, "num_heads": 4, "mlp_ratio": 2.5},
    ),
}


# timm's own entries of these two have patches of 16 pixels and fixed sizes.
default_cfgs = generate_default_cfgs(
    {name: {"fixed_input_size": True} for name in ("resmlp_cifar10", "mixer_cifar10")}  # made for img_size
)


@register_model
def resmlp_cifar10(pretrained: bool = False, **options: Any) -> MlpMixer:
    """Build timm's ResMLP, its LayerScale from the 1e-4 that ``resmlp_12_224`` has."""
    return build("resmlp_cifar10", mlp_ratio=2, block_layer=ResBlock, norm_layer=Affine, **options)


@register_model
def mixer_cifar10(pretrained: bool = False, **options: Any) -> MlpMixer:
    """Build timm's MLP-Mixer, its MLP over patches half as wide as the channels, as in ``mixer_s16_224``."""
    return build("mixer_cifar10", mlp_ratio=(0.5, 2), **options)


def build(name: str, **options: Any) -> MlpMixer:
    """Build a network of the recipe's depth, channels and patches."""
    model: MlpMixer = build_model_with_cfg(MlpMixer, name, False, patch_size=4, num_blocks=6, embed_dim=192, **options)
    return model


@reporting("peers")
def train_peer(out: Path, name: str, overrides: list[str]) -> None:
    """Train one of them."""
    for override in overrides:
        if override.startswith("model"):
            raise UserError(f"{override}: NAME says which model")
    config = read_config(RECIPE, [*overrides, f"out={out / name}"], Config)
    model, options = PEERS[name]
    try:
        train(dataclasses.replace(config, model=model, model_args=options), SupervisedTrainer)
    finally:
        leave_processes()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train one of timm's networks by the recipe of CIFAR-10.")
    parser.add_argument("out", type=Path)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as data=FOLDER lr=0.006 epochs=40")
    train_peer(**vars(parser.parse_args()))
