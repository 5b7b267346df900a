"""Training without labels, by DINO.

DINO (Caron et al., 2021) trains a student to predict, from small views of an image, what its own average, the teacher,
predicts from large ones. Loss, projection head and views are lightly's; the rest is shared with supervised training.
"""

import warnings
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.transforms import DINOTransform
from lightly.utils.scheduler import cosine_schedule
from timm.task import ClassificationTask
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm

from resmlp_core.common.errors import UserError
from resmlp_vision.config import DINOConfig
from resmlp_vision.data.datasets import Images, StreamedImages
from resmlp_vision.data.loaders import views_loader
from resmlp_vision.evaluation.knn import knn
from resmlp_vision.models.loading import build
from resmlp_vision.models.resmlp import ResMLP
from resmlp_vision.models.weights import crop_positions, mixes_linearly
from resmlp_vision.training.trainer import Trainer

NEIGHBOURS = 20  # of the k-NN classification that validates
CENTER_MOMENTUM = 0.9  # of the mean that is subtracted from the teacher's output


class MultiCrop(nn.Module):
    """A backbone and DINO's projection head, for views of several sizes.

    A view smaller than the backbone's images is taken for their middle: it meets the sub-matrix of A of those patches.

    Args:
        backbone: maps images ``(B, 3, height, width)`` to features ``(B, C)``.
        head: maps them to ``(B, out_dim)``.
    """

    def __init__(self, backbone: ResMLP, head: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.head: Any = head
        backbone.stem.strict_img_size = False

    def features(self, images: Tensor) -> Tensor:
        """Map images ``(B, 3, height, width)``, no larger than the backbone's, to features ``(B, C)``."""
        grid = self.backbone.stem.dynamic_feat_size(images.shape[-2:])
        if grid == self.backbone.stem.grid_size:
            return self.backbone(images)
        return functional_call(self.backbone, crop_positions(self.backbone, grid), (images,))

    def forward(self, views: list[Tensor]) -> list[Tensor]:
        """Map views, each ``(B, 3, height, width)``, to projections, each ``(B, out_dim)``; equal sizes go at once."""
        features = [self.features(torch.cat(list(group))) for _, group in groupby(views, key=lambda view: view.shape)]
        return list(self.head(torch.cat(features)).chunk(len(views)))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Name the groups of parameters for layer-wise learning rates, as the backbone does; the head comes last."""

        def within(patterns: Any) -> Any:
            if isinstance(patterns, str):
                return patterns.replace("^", r"^backbone\.")
            return [(within(pattern), *order) for pattern, *order in patterns]

        return {group: within(patterns) for group, patterns in self.backbone.group_matcher(coarse).items()}


def build_head(dim: int, config: DINOConfig) -> Any:
    """Build DINO's projection head over features of ``dim`` channels; the rows of its last layer keep length 1."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of the form of weight_norm that follows
        head = DINOProjectionHead(
            dim, config.hidden_dim, config.bottleneck_dim, config.out_dim, freeze_last_layer=config.freeze_last_layer
        )
    last: Any = weight_norm(nn.utils.remove_weight_norm(head.last_layer))  # a form that can be copied, for the teacher
    last.parametrizations.weight.original0.requires_grad_(False)
    return head


class DINOTask(ClassificationTask):
    """DINO as a task of timm's, a model and a criterion; the teacher is the task's average of the weights.

    Args:
        student: what is trained.
        config: temperatures and dimensions.
        device: of the loss's centre.
    """

    def __init__(self, student: MultiCrop, config: DINOConfig, device: torch.device) -> None:
        criterion = DINOLoss(
            config.out_dim,
            warmup_teacher_temp=config.warmup_teacher_temp,
            teacher_temp=config.teacher_temp,
            warmup_teacher_temp_epochs=config.warmup_teacher_temp_epochs,
            center_momentum=CENTER_MOMENTUM ** (1 / config.accumulate),  # it moves with every part of an update
        )
        super().__init__(student, criterion, device=device, verbose=False)
        self.epoch = 0
        # left out of the first epochs' gradients, and of their norm, which steadies them
        last = student.head.last_layer.parametrizations.weight.original1
        last.register_hook(lambda grad: grad * (self.epoch >= config.freeze_last_layer))
        self.setup_ema(config.momentum_teacher)

    def train(self, mode: bool = True) -> "DINOTask":
        """Let the student train; the teacher is without stochastic depth at all times."""
        super().train(mode)
        self.trainable_module_ema.eval()
        return self

    def forward(self, views: list[Tensor], labels: Tensor) -> dict[str, Any]:
        """Compute the loss of views, each ``(B, 3, height, width)``, the two global ones first; labels go unused."""
        views = [view.to(self.device, non_blocking=True) for view in views]
        with torch.no_grad():
            taught = self.trainable_module_ema(views[:2])
        projections = self.trainable_module(views)
        with torch.autocast(self.device.type, enabled=False):  # thousands of logits are compared
            taught, projections = ([view.float() for view in part] for part in (taught, projections))
            return {"loss": self.criterion(taught, projections, epoch=self.epoch), "output": projections}

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> Any:
        """Return the backbone, which is what is of use: of the student, or of the teacher."""
        return unwrap_model(self.get_trainable_module(ema)).backbone

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """Return what a checkpoint holds beside the backbone: the head, and with the student's the loss's centre."""
        state = {"head": unwrap_model(self.get_trainable_module(ema)).head.state_dict()}
        return state if ema else state | {"center": self.criterion.center}

    def load_task_state(
        self, state: Any, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        """Load what ``get_task_state`` gave."""
        unwrap_model(self.get_trainable_module(ema)).head.load_state_dict(state["head"])
        if not ema:
            self.criterion.center.copy_(state["center"])


class DINOTrainer(Trainer[DINOConfig]):
    """Self-supervised training; its validation is the k-NN accuracy of the teacher's features."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        head = unwrap_model(self.task.get_trainable_module()).head
        # Lookahead's own first step calls no hooks
        optimizer = getattr(self.optimizer, "_base_optimizer", self.optimizer)
        # the optimiser must pass the frozen layer by: zeros for gradients would count in its moments
        optimizer.register_step_pre_hook(lambda *_: head.cancel_last_layer_gradients(self.task.epoch))

    def build_model(self) -> Any:
        """Build the backbone, without a classifier.

        Raises:
            UserError: the local views have no whole patches or are too large, or the backbone cannot take them.
        """
        config = self.config
        model = build(config, 0)
        if not isinstance(model, ResMLP):
            raise UserError(f"model={config.model} is no ResMLP, and only A can be cut to the small views")
        if not mixes_linearly(model) or model.global_pool != "avg":
            raise UserError("model_args: DINO needs position_mixer: linear and global_pool: avg")
        patch = model.stem.patch_size[0]
        if config.local_size % patch or config.local_size > config.img_size:
            raise UserError(
                f"local_size={config.local_size} must be a multiple of the patch size, {patch}, up to "
                f"img_size={config.img_size}"
            )
        return model

    def training_loader(self, training: Images | StreamedImages) -> Any:
        """Make the loader of DINO's views.

        Raises:
            UserError: the batch does not fit the data set, or that has too few images for validation.
        """
        config = self.config
        if config.val_split is not None and self.images is not None and self.images < NEIGHBOURS:
            raise UserError(
                f"{self.images} training images are fewer than the {NEIGHBOURS} that vote in validation; "
                "val_split=null trains without it"
            )
        views = DINOTransform(
            global_crop_size=config.img_size,
            global_crop_scale=config.global_scale,
            local_crop_size=config.local_size,
            local_crop_scale=config.local_scale,
            n_local_views=config.local_views,
            gaussian_blur=config.blur,
            normalize={key: list(value) for key, value in self.norm.items()},
        )
        return views_loader(training, config, self.device, views)

    def create_task(self, model: Any) -> None:
        """Make the student and its teacher."""
        config = self.config
        head = build_head(model.num_features, config).to(self.device)
        self.task = DINOTask(MultiCrop(model, head), config, self.device)

    def schedule(self, update: int) -> None:
        """Set the learning rate, the weight decay, the teacher's momentum and its temperature."""
        super().schedule(update)
        config, updates = self.config, self.config.epochs * self.updates_per_epoch
        decay = cosine_schedule(update, updates, config.weight_decay, config.final_weight_decay)
        for group in self.optimizer.param_groups:
            if group["weight_decay"]:
                group["weight_decay"] = float(decay)  # lightly 1.5 gives NumPy's, which no checkpoint may hold
        self.task.trainable_module_ema.decay = cosine_schedule(update, updates, config.momentum_teacher, 1.0)
        self.task.epoch = update // self.updates_per_epoch

    @cached_property
    def bank_loader(self) -> Any:
        """The loader of the training images as validation sees them."""
        return self.evaluation_loader(self.config.train_split)

    def validate(self) -> dict[str, float]:
        """Return ``knn_top1`` in percent: each image by the training images nearest to it."""
        teacher = self.task.get_eval_model(ema=True)
        with self.autocast():
            found = knn(teacher, self.bank_loader, self.val_loader, NEIGHBOURS, self.device)
        return {"knn_top1": found[f"knn{NEIGHBOURS}_top1"]}
