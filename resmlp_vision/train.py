"""Train a classifier: ``python -m resmlp_vision.train --config recipes/imagenet/resmlp_s12.yaml data=... out=...``.

The same command under torchrun uses several GPUs or machines; after an interruption, it resumes from the last epoch.
"""

from resmlp_core.common.errors import reporting
from resmlp_vision.config import Config
from resmlp_vision.training.command import run_command
from resmlp_vision.training.supervised import SupervisedTrainer


@reporting("train")
def main() -> None:
    """Run the command line."""
    run_command("train", "Train an image classifier.", "cifar10", Config, SupervisedTrainer)


if __name__ == "__main__":
    main()
