"""Training a classifier from labels, and from a teacher's decisions."""

from typing import Any

import torch.distributed as dist
from timm.data import Mixup
from timm.utils import distribute_bn, unwrap_model

from resmlp_core.common.errors import UserError
from resmlp_vision.config import Config
from resmlp_vision.data.datasets import Images, StreamedImages
from resmlp_vision.data.loaders import training_loader
from resmlp_vision.evaluation.accuracy import evaluate
from resmlp_vision.models.loading import build
from resmlp_vision.training.tasks import create_task
from resmlp_vision.training.trainer import Trainer

METRICS = {"loss": "val_loss", "top1": "top1", "top5": "top5"}  # names in a validation, and in a record


class SupervisedTrainer(Trainer[Config]):
    """Training of a classifier, from labels."""

    def build_model(self) -> Any:
        """Build the classifier, only whose last layer learns where the backbone is frozen.

        Raises:
            UserError: there is one class only; or what ``build`` raises.
        """
        if self.data_classes < 2:
            raise UserError(
                f"data={self.config.data}: the images of {self.config.train_split!r} are of one class, and a "
                "classifier needs two; a folder of images has a folder in it for each class"
            )
        model = build(self.config, self.data_classes)
        if self.config.freeze_backbone:
            model.reset_classifier(self.data_classes)
            model.requires_grad_(False)
            heads = model.get_classifier()  # two where a model was distilled through a token of its own
            for head in heads if isinstance(heads, tuple) else (heads,):
                head.requires_grad_(True)
        return model

    def training_loader(self, training: Images | StreamedImages) -> Any:
        """Make the loader of augmented images."""
        return training_loader(training, self.config, self.device, **self.norm)

    def create_task(self, model: Any) -> None:
        """Make the classifier's task, against the labels or a teacher's decisions too."""
        config = self.config
        self.task = create_task(model, config, self.device, self.classes)
        if config.mixup > 0 or config.cutmix > 0:
            self.mixup = Mixup(
                config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=self.num_classes
            )
        if config.ema_decay is not None:
            self.task.setup_ema(config.ema_decay)

    def train_mode(self) -> None:
        """Let the model train; a frozen backbone computes as in use."""
        self.task.train(not self.config.freeze_backbone)

    def validate(self) -> dict[str, float]:
        """Return ``val_loss``, ``top1`` and ``top5`` in percent, and those of the weights' average."""
        outcome: dict[str, float] = {}
        for ema, prefix in ((False, ""), (True, "ema_")):
            if not ema or self.task.has_ema():
                model = unwrap_model(self.task.get_eval_model(ema=ema))  # in validation there is nothing to exchange
                distribute_bn(model, dist.get_world_size(), reduce=True)  # what is measured is what is saved
                with self.autocast():
                    found = evaluate(model, self.val_loader, self.device)
                outcome |= {f"{prefix}{name}": found[key] for key, name in METRICS.items()}
        return outcome
