"""A training cut short: few updates an epoch, up to the highest rate, watched, killed and resumed."""

import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.utils import unwrap_model
from torch import Tensor

from resmlp_core.common.errors import UserError
from resmlp_core.common.measuring import watching_activations
from resmlp_core.common.processes import end_with_parent
from resmlp_vision.config import RunConfig
from resmlp_vision.data.sample import Data
from resmlp_vision.distributed import gather, rank
from resmlp_vision.training.checkpoints import LAST, Saver
from resmlp_vision.training.run import train
from resmlp_vision.training.step_times import FirstBatches
from resmlp_vision.training.trainer import Trainer

EPOCHS = 2  # of the short run: one up to the highest rate, one at it


class Ramp:
    """Takes the place of a schedule: rises in so many updates to the highest rate, and stays there.

    Args:
        scheduler: the recipe's.
        config: the settings, with the rate that the warm-up starts from.
        updates: of the rise.
    """

    def __init__(self, scheduler: Any, config: RunConfig, updates: int) -> None:
        self.scheduler = scheduler
        self.first = config.warmup_lr if config.warmup_epochs else 0.0
        self.highest = max(config.lr, config.min_lr if config.sched == "cosine" else 0.0)
        self.updates = updates

    def step_update(self, update: int) -> None:
        """Set the rate of an update."""
        share = min(1.0, (update + 1) / self.updates)
        self.scheduler.update_groups(self.first + share * (self.highest - self.first))


@dataclass
class Watched:
    """What each update of a run showed.

    Attributes:
        losses: of this process.
        gradient_norms: of this process's images, before they are clipped.
        activations: the largest of any layer.
        rate: the highest so far.
    """

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    activations: list[float] = field(default_factory=list)
    rate: float = 0.0

    def watch(self, trainer: Trainer[Any], stack: ExitStack) -> None:
        """Look at each update of a trainer, until the stack is closed."""
        module = trainer.task.get_trainable_module()
        largest = stack.enter_context(watching_activations(unwrap_model(module)))
        squares: dict[Tensor, Tensor] = {}

        def add(parameter: Tensor) -> None:  # with a part's gradient added, and before it is clipped
            if parameter.grad is not None:
                squares[parameter] = parameter.grad.detach().float().square().sum()

        for parameter in module.parameters():
            if parameter.requires_grad:
                stack.callback(parameter.register_post_accumulate_grad_hook(add).remove)
        updates, scale = trainer.updates, partial(scale_of, trainer)

        def watched(first: int) -> Iterator[Tensor]:
            before = scale()
            for loss in updates(first):
                norm = math.sqrt(float(torch.stack([*squares.values()]).sum())) / before if squares else 0.0
                skipped, before = scale() < before, scale()
                if skipped:  # float16 looks for its scale by overflowing: nothing was learnt
                    norm = self.gradient_norms[-1] if self.gradient_norms else 0.0
                self.losses.append(float(loss))
                self.gradient_norms.append(norm)
                self.activations.append(largest())
                self.rate = max(self.rate, *(group["lr"] for group in trainer.optimizer.param_groups))
                yield loss

        trainer.updates = watched  # type: ignore[method-assign]


def scale_of(trainer: Trainer[Any]) -> float:
    """Return what float16's loss is multiplied by; 1 for other types."""
    scaler: Any = trainer.scaler
    return float(scaler._scaler.get_scale()) if scaler is not None else 1.0


@dataclass
class ShortRun:
    """A training of two epochs of few updates, as ``train`` runs it.

    Args:
        config: the settings, with the batch that is rehearsed.
        trainer_type: how it trains.
        opening: opens the data.
        updates: of an epoch.
        seconds: for each loader of validation.

    Attributes:
        loaders: of validation, in the last run.
        saving: seconds that each checkpoint took.
    """

    config: Any
    trainer_type: type[Trainer[Any]]
    opening: Data
    updates: int
    seconds: float
    loaders: list[FirstBatches] = field(default_factory=list)
    saving: list[float] = field(default_factory=list)

    def build(self, hook: Callable[[Trainer[Any]], None], config: Any, device: torch.device) -> Trainer[Any]:
        """Make the trainer that ``train`` is given."""
        trainer = self.trainer_type(config, device, self.opening)
        trainer.watch.silent = True
        trainer.updates_per_epoch = min(self.updates, trainer.updates_per_epoch)
        trainer.scheduler = Ramp(trainer.scheduler, config, trainer.updates_per_epoch)
        if trainer.val_loader is not None:
            self.loaders = []
            for name in ("val_loader", "bank_loader"):  # the second of DINO's
                if loader := getattr(trainer, name, None):
                    split = config.val_split if name == "val_loader" else config.train_split
                    times = self.opening.whole.get(split, len(loader.dataset)) / len(loader.dataset)
                    self.loaders.append(FirstBatches(loader, self.seconds, times * len(loader)))
                    setattr(trainer, name, self.loaders[-1])
        hook(trainer)
        return trainer

    def run(self, out: Path, watched: Watched) -> None:
        """Train in a folder, from its last checkpoint if it has one; what it prints goes to a file beside it."""
        saving = self.saving

        class TimedSaver(Saver):
            def save_checkpoint(self, *args: Any) -> Any:
                start = time.perf_counter()
                outcome = super().save_checkpoint(*args)
                saving.append(time.perf_counter() - start)
                return outcome

        with ExitStack() as stack:
            log = stack.enter_context(open(f"{out}.log", "a", encoding="utf-8"))
            stack.enter_context(redirect_stdout(log))
            hook = partial(watched.watch, stack=stack)
            train(self.settings(out), partial(self.build, hook), TimedSaver)

    def settings(self, out: Path) -> Any:
        """Return the settings of the short run in a folder."""
        warmup = min(self.config.warmup_epochs, EPOCHS)
        return replace(self.config, out=str(out), epochs=EPOCHS, val_every=EPOCHS, warmup_epochs=warmup)

    def run_and_kill(self, out: Path) -> None:
        """Train in a folder, in a process of its own that ends by SIGKILL within the second epoch.

        Raises:
            UserError: it ended otherwise.
        """
        with socket.socket() as listener:  # where the children of several processes meet
            listener.bind(("", 0))
            port = gather(listener.getsockname()[1])[0]
        meeting = {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
        handed, log = Path(f"{out}.{rank()}.pickle"), Path(f"{out}.killed.log")
        handed.write_bytes(pickle.dumps((replace(self, opening=Data(self.opening.folder), loaders=[]), out)))
        code = f"from {__name__} import train_until_killed; train_until_killed({str(handed)!r})"
        with (
            log.open("a", encoding="utf-8") as said,
            subprocess.Popen(
                [sys.executable, "-c", code],
                env=os.environ | meeting,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                start_new_session=True,
            ) as child,
        ):
            status = child.wait()
        if status != -signal.SIGKILL or not (out / LAST).exists():
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise UserError(f"the run that was to be killed ended by itself: {lines[-1] if lines else 'silently'}")


def train_until_killed(handed: str) -> None:
    """Be the process that is killed: half of the second epoch's updates are done, and its checkpoint is not written.

    Args:
        handed: the file with the pickled run and its folder.
    """
    end_with_parent()
    short, out = pickle.loads(Path(handed).read_bytes())

    def hook(trainer: Trainer[Any]) -> None:
        updates, last = trainer.updates, trainer.updates_per_epoch + max(1, trainer.updates_per_epoch // 2)

        def killed(first: int) -> Iterator[Tensor]:
            for number, loss in enumerate(updates(first), first + 1):
                if number == last:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield loss

        trainer.updates = killed  # type: ignore[method-assign]

    train(short.settings(out), partial(short.build, hook))
