"""fairseq-train as a rehearsal runs it, in place of fairseq_cli.train: its own loop, watched, ended and tried further.

The first part takes the longest batches, saves a checkpoint after some usual updates, does some more and kills itself.
The second resumes, does those again, measures usual updates, raises the learning rate to the schedule's highest, and
when all is saved looks for the largest batch that fits. What is seen goes to a file after each step of that, since a
process that runs out of memory may be killed at any time.
"""

import functools
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import fairseq_cli.train
from fairseq import checkpoint_utils
from omegaconf import open_dict

import resmlp_mt.plugin  # noqa: F401  this package is loaded before fairseq, which then finds --user-dir done
from resmlp_core.common.devices import find_devices, interconnect_speed, is_out_of_memory, limit_memory, peak_memory
from resmlp_core.common.files import write_json
from resmlp_core.common.measuring import watching_activations
from resmlp_mt.patches.shared_checkpoint import tell_the_others
from resmlp_mt.pipeline.longest_batches import LongestBatches, agree
from resmlp_mt.pipeline.rehearsal_plan import Plan, read_plan
from resmlp_mt.pipeline.update_times import UpdateTimes

MOST_UPDATES = {"lost": 8, "usual": 200, "ramp": 40}


class Diverged(Exception):
    """A gradient is not finite."""


class Observer:
    """What watches and steers one of fairseq's trainings.

    Args:
        plan: what to do.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen: dict[str, Any] = {"saves": [], "validations": [], "search": [], "ramp": 0}
        self.seen |= {"updates": [], "losses": [], "gradient_norms": [], "activations": []}
        self.norm = float("nan")
        self.watching = ExitStack()

    def run(self, cfg: Any) -> None:
        """Train as fairseq_cli.train does, between what is done before and after."""
        train, validate, save = self.train_epoch, fairseq_cli.train.validate, checkpoint_utils.save_checkpoint
        fairseq_cli.train.train = functools.partial(train, fairseq_cli.train.train)
        fairseq_cli.train.validate = functools.partial(self.apart, "validations", validate)
        saving = functools.partial(self.apart, "saves", save)
        functools.update_wrapper(saving, save)
        checkpoint_utils.save_checkpoint = saving
        TRAIN_MAIN(cfg)
        if self.plan.part == "resumed":
            self.record(saved=True)
            batch, roomy = self.plan.batch, self.plan.roomy
            start, known = (2 * batch, batch) if roomy else (batch, 0)
            if self.cfg.dataset.max_tokens:
                self.longest.search(start, known, self.plan.seconds["search"], self.tell_tried)

    def train_epoch(self, train: Callable[..., Any], cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> Any:
        """Wrap fairseq's ``train``, which trains for an epoch."""
        if not hasattr(self, "trainer"):
            self.cfg, self.trainer, self.epoch_itr = cfg, trainer, epoch_itr
            self.begin()
        self.times.wait()
        return train(cfg, trainer, task, epoch_itr)

    def begin(self) -> None:
        """Measure what needs no training; in the first part take the longest batches, and settle what follows."""
        trainer = self.trainer
        self.longest, self.train_step = LongestBatches(trainer, self.epoch_itr), trainer.train_step
        if trainer.data_parallel_rank == 0:
            self.seen["hardware"] = list(map(asdict, find_devices(trainer.cuda)))
            several = trainer.cuda and trainer.data_parallel_world_size > 1
            self.seen["interconnect"] = interconnect_speed() if several else None
        limit_memory(trainer.cuda, spare=0)
        trainer.lr_scheduler  # noqa: B018  it is made here, from the recipe's own number of updates
        with open_dict(self.cfg):
            self.cfg.optimization.max_update = self.cfg.optimization.max_epoch = 0
            self.cfg.checkpoint.patience = -1  # the epochs of a sample are short, and their losses near to each other
        self.seen["startup"] = time.time() - self.plan.started
        self.seen["parameters"] = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        self.seen["devices"] = trainer.data_parallel_world_size
        self.seen |= self.longest.count()
        self.seen["workers"] = workers = self.cfg.dataset.num_workers
        self.seen["loader_speed"] = self.longest.loader_speed() * max(1, workers) * self.seen["devices"]
        self.times = UpdateTimes(trainer)
        trainer.clip_grad_norm = self.keeping_norm(trainer.clip_grad_norm)
        if self.plan.part == "first":
            self.probe()
        else:
            self.began = time.perf_counter()
        trainer.train_step = self.step
        self.record()

    def probe(self) -> None:
        """Take the longest batch that the recipe allows, twice; then settle how many updates there is time for."""
        self.seen["batch"] = size = self.cfg.dataset.max_tokens or self.cfg.dataset.batch_size * self.longest.most
        self.record(fits=False)  # unless what follows says otherwise
        try:
            seconds = [self.longest.take(size) for _ in range(2)][-1]
        except Exception as error:
            if not is_out_of_memory(error):
                if isinstance(error, Diverged):
                    self.see(self.trainer.get_num_updates() + 1, float("nan"), float("nan"))
                self.record(fits=None, error=f"{type(error).__name__}: {error}")
                raise
            self.longest.search(size // 2, 0, self.plan.seconds["search"], self.tell_tried)
            raise SystemExit("out of memory") from None
        self.seen |= {"fits": True, "peak_memory": max(tell_the_others(self.trainer, peak_memory(self.trainer.cuda)))}
        budget = self.plan.seconds["first"]
        with open_dict(self.cfg):
            freq = self.cfg.optimization.update_freq[0]
            self.seen["update_freq"] = used = max(1, min(freq, int(agree(self.trainer, budget / 4 / seconds))))
            self.cfg.optimization.update_freq = [used]
            half = int(agree(self.trainer, max(1, min(MOST_UPDATES["lost"], budget / 2 / used / seconds))))
            self.seen["saved_at"] = self.trainer.get_num_updates() + half
            self.seen["last"] = self.seen["saved_at"] + half
            self.cfg.checkpoint.save_interval_updates = self.seen["saved_at"]

    def keeping_norm(self, clip: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the trainer's ``clip_grad_norm`` to know the norm, and to end where it is not finite.

        fairseq would end there too, but first run the update again to find the layer. Only its --amp goes on.
        """

        def clipped(*args: Any) -> Any:
            self.norm = norm = clip(*args)
            if not self.cfg.common.amp and not isfinite(norm):
                raise Diverged(f"the norm of the gradient is {float(norm)}")
            return norm

        return clipped

    def step(self, samples: list[Any], raise_oom: bool = False) -> Any:
        """Wrap the trainer's ``train_step``: look at it, and settle what is next."""
        tokens = sum(sample["ntokens"] for sample in samples if sample)
        updates = self.trainer.get_num_updates()
        usual = self.plan.part == "resumed" and not self.seen["ramp"] and updates >= self.plan.last
        self.times.enter()
        try:
            output = self.ramp(samples) if self.seen["ramp"] else self.train_step(samples, raise_oom=raise_oom)
        except Diverged:
            self.see(updates + 1, float("nan"), float("nan"))
            if not self.seen["ramp"]:
                self.record()
                raise
            output, self.ramped = None, self.seen["ramp"]
        if output is not None:
            self.see(updates + 1, float(output["loss"]), float(self.norm))
        if usual and output is not None:
            self.times.leave(tokens)
        if self.plan.part == "first":
            if self.trainer.get_num_updates() >= self.seen["last"]:
                self.record(killed=True)
                tell_the_others(self.trainer, None)  # that none is killed while it still sends
                os.kill(os.getpid(), signal.SIGKILL)
        elif usual or self.seen["ramp"]:
            self.settle(time.perf_counter() - self.began)
        self.times.wait()
        return output

    def see(self, update: int, loss: float, norm: float) -> None:
        """Keep what an update gave."""
        for name, value in (("updates", update), ("losses", loss), ("gradient_norms", norm)):
            self.seen[name].append(value)

    def settle(self, seconds: float) -> None:
        """In the second part, pass from usual updates to the ramp, and from that to the end."""
        allowed, done = self.plan.seconds, self.times.count
        if self.seen["ramp"]:
            if self.ramped >= self.seen["ramp"]:
                self.watching.close()
                self.end()
        elif not self.times.at_full_speed():
            if agree(self.trainer, done > 1 and (seconds > allowed["usual"] / 3 or done >= MOST_UPDATES["usual"] / 3)):
                self.times.let_go()
        elif done and agree(self.trainer, seconds > allowed["usual"] or done >= MOST_UPDATES["usual"]):
            number = agree(self.trainer, min(MOST_UPDATES["ramp"], max(4, allowed["ramp"] * done / seconds)))
            self.seen["ramp"], self.ramped = int(number), 0
            self.seen["rate"] = self.highest_rate()
            self.largest_activation = self.watching.enter_context(watching_activations(self.trainer.model))

    def highest_rate(self) -> float:
        """Return the schedule's highest rate; for Adagrad, that which makes its steps as large as they will be.

        Adagrad divides by the root of all squared gradients so far. Its steps are largest when its warm-up ends, and
        at the same rate they would be many times larger in the first updates, which never happens in the run.
        """
        rate = max(self.cfg.optimization.lr)
        warmup = getattr(self.cfg.lr_scheduler, "warmup_updates", 0) or 0
        if self.cfg.optimizer._name == "adagrad" and warmup:
            rate *= min(1.0, (self.trainer.get_num_updates() + self.seen["ramp"]) / warmup) ** 0.5
        return float(rate)

    def ramp(self, samples: list[Any]) -> Any:
        """Do an update of the ramp: to the highest rate in its first half, at that rate in its second."""
        self.ramped += 1
        self.trainer.optimizer.set_lr(self.seen["rate"] * min(1.0, 2 * self.ramped / self.seen["ramp"]))
        output = self.train_step(samples)
        self.seen["activations"].append(self.largest_activation())
        return output

    def end(self) -> None:
        """Let fairseq validate, save and end, after this update."""
        with open_dict(self.cfg):
            self.cfg.optimization.max_update = max(1, self.trainer.get_num_updates())
        self.seen["milliseconds"], tokens = self.times.means()
        self.seen["quarters"] = [speed * self.seen["devices"] for speed in self.times.quarters()]
        self.seen["update_tokens"] = tokens * self.seen["devices"]
        self.record()

    def apart(self, what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Time what is no part of an update: a validation, or saving."""
        started = time.perf_counter()
        found = function(*args, **kwargs)
        self.seen[what].append(time.perf_counter() - started)
        self.times.leave_out(self.seen[what][-1])
        return found

    def tell_tried(self, max_tokens: int, fits: bool) -> None:
        """Keep what size of a batch is tried, at once: to try it may be the end."""
        if fits:
            self.seen["search"].pop()
        self.seen["search"].append([max_tokens, fits])
        self.record()

    def record(self, **more: Any) -> None:
        """Write what was seen so far."""
        self.seen |= more
        if self.trainer.data_parallel_rank == 0:
            write_json(Path(self.plan.record), self.seen)


def main(cfg: Any) -> None:
    """Train in this process, as the plan says."""
    Observer(read_plan()).run(cfg)


TRAIN_MAIN = fairseq_cli.train.main

if __name__ == "__main__":
    from resmlp_mt.pipeline import rehearsed_training  # by the name that processes which are started find it

    fairseq_cli.train.main = rehearsed_training.main
    fairseq_cli.train.cli_main()
