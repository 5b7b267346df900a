"""Train without labels, by DINO: ``python -m resmlp_vision.dino --config recipes/dino/resmlp_s12.yaml out=...``."""

from resmlp_core.common.errors import reporting
from resmlp_vision.config import DINOConfig
from resmlp_vision.training.command import run_command
from resmlp_vision.training.dino import DINOTrainer


@reporting("dino")
def main() -> None:
    """Run the command line."""
    run_command("dino", "Train a backbone without labels, by DINO.", "dino/cifar10", DINOConfig, DINOTrainer)


if __name__ == "__main__":
    main()
