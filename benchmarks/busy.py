"""How OpenMP's threads should wait for each other: work a second on a quiet machine, and beside one busy process.

    python benchmarks/busy.py [--policies 300000 passive 10000] [--works "train a translator"]

A policy is the environment of a process, which OpenMP reads once, at its start. ``active`` spins at a barrier,
``passive`` sleeps, and a number is GOMP_SPINCOUNT: a thread spins so often and then sleeps. 300000 is OpenMP's default.
Each policy has a process of its own. They take turns on the same work, beside a process that computes and without it.
A process without a turn is stopped, as one that is idle but spins would keep the cores busy.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from measure import options, save

import torch

from resmlp_core.common.arguments import positive

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
NAMED: dict[str, dict[str, str]] = {
    "active": {"OMP_WAIT_POLICY": "active"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
BUSY = [sys.executable, "-c", "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"]


def train_translator() -> Callable[[], object]:
    """Make an update of the demo's translator."""
    import mt_train

    dictionary = mt_train.make_dictionary(mt_train.SIZES["demo"][4])
    batch, _ = mt_train.make_batch("demo", dictionary)
    trainer = mt_train.make_trainer("resmlp", "demo", dictionary, ["--cpu"])
    return mt_train.make_step(trainer, batch)


def translate(sentences: int) -> Callable[[], object]:
    """Make a batch for the demo's translator, beam 4, 20 tokens a sentence."""
    import mt_decode
    import mt_train

    dictionary = mt_train.make_dictionary(mt_train.SIZES["demo"][4])
    model = mt_train.make_trainer("resmlp", "demo", dictionary, ["--cpu"]).model.eval()
    model.make_generation_fast_()
    return mt_decode.generate(model, dictionary, mt_decode.make_sources(dictionary, sentences, 20, "cpu"), beam=4)


def train_classifier() -> Callable[[], object]:
    """Make an update of a small classifier on 128 images, sized as the recipe for CIFAR-10 has it."""
    import vision_train
    from resmlp_vision.config import Config
    from resmlp_vision.distributed import join_processes
    from resmlp_vision.training.supervised import SupervisedTrainer

    device = join_processes("cpu")
    with tempfile.TemporaryDirectory() as folder:
        vision_train.write_images(Path(folder, "train", "one"), 128)
        small = {"depth": 8, "embed_dim": 128, "patch_size": 4}
        config = Config(data=folder, val_split=None, model_args=small, img_size=24, num_classes=10, batch_size=128)
        trainer = SupervisedTrainer(config, device)
    return vision_train.make_step(trainer, torch.randn(128, 3, 24, 24), torch.randint(10, (128,)))


def classify() -> Callable[[], object]:
    """Make the classification of one image by S12."""
    import vision_infer
    from resmlp_core import fold
    from resmlp_vision import create_model

    return partial(vision_infer.classify, fold(create_model("resmlp_s12").eval()), torch.randn(1, 3, 224, 224), 1)


WORKS: dict[str, Callable[[], Callable[[], object]]] = {
    "train a translator": train_translator,
    "translate 16 sentences": partial(translate, 16),
    "translate one": partial(translate, 1),
    "train a classifier": train_classifier,
    "classify one": classify,
}


def serve(works: list[str], threads: int, seconds: float) -> None:
    """Do a turn of the work that each line of standard input names, and print how often it was done in a second."""
    torch.set_num_threads(threads)
    calls = {name: WORKS[name]() for name in works}
    for call in calls.values():
        call()
    print("ready", flush=True)
    for line in sys.stdin:
        call, times, started = calls[line.rstrip()], 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            call()
            times += 1
        print(times / (time.perf_counter() - started), flush=True)


class Contender:
    """A process with a policy, stopped but for its turns."""

    def __init__(self, policy: str, args: argparse.Namespace) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        environment |= NAMED.get(policy) or {"GOMP_SPINCOUNT": policy}
        line = [sys.executable, __file__, "--serve", "--threads", str(args.threads), "--seconds", str(args.seconds)]
        self.process = subprocess.Popen(
            [*line, "--works", *args.works], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin and self.process.stdout
        self.ask, self.answer = self.process.stdin, self.process.stdout

    def become_ready(self) -> None:
        """Wait until the process has all that it needs."""
        while (line := self.answer.readline().strip()) != "ready":
            if not line and self.process.poll() is not None:
                raise SystemExit(f"a contender ended with status {self.process.returncode}")
        self.process.send_signal(signal.SIGSTOP)

    def turn(self, work: str) -> float:
        """Return how often the work was done in a second."""
        self.process.send_signal(signal.SIGCONT)
        print(work, file=self.ask, flush=True)
        rate = float(self.answer.readline())
        self.process.send_signal(signal.SIGSTOP)
        return rate


@contextmanager
def beside(busy: bool) -> Iterator[None]:
    """Let one process compute meanwhile, if asked."""
    process = subprocess.Popen(BUSY) if busy else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Let all policies have their turns, and return a row for each of them, work and load."""
    contenders: dict[str, Contender] = {}
    try:
        for policy in args.policies:
            contenders[policy] = Contender(policy, args)
            contenders[policy].become_ready()  # one after the other: none is stopped while it spins beside another
        rates: dict[tuple[str, str, str], list[float]] = {}
        for _ in range(args.rounds):
            for load in ("quiet", "busy"):
                with beside(load == "busy"):
                    for work in args.works:
                        for policy, contender in contenders.items():
                            rates.setdefault((work, load, policy), []).append(contender.turn(work))
    finally:
        for contender in contenders.values():
            contender.process.kill()
            contender.process.wait()
    return [
        {"work": work, "load": load, "policy": policy, "per_second": turns}
        for (work, load, policy), turns in rates.items()
    ]


def show(rows: list[dict[str, Any]], policies: list[str]) -> None:
    """Print a line for each work and load: updates, batches or images a second by policy, and their share of the first.

    The share is the median of the rounds' own; beside another process, of the first policy's speed without it.
    """
    print(f"{'':<32}" + "".join(f"{policy:>17}" for policy in policies))
    found = {(row["work"], row["load"], row["policy"]): row["per_second"] for row in rows}
    for work, load in dict.fromkeys((row["work"], row["load"]) for row in rows):
        print(f"{work + ', ' + load:<32}", end="")
        for policy in policies:
            rates = found[work, load, policy]
            share = median(rate / base for rate, base in zip(rates, found[work, "quiet", policies[0]], strict=True))
            print(f"{median(rates):>10,.2f}{share:>6.0%} ", end="")
        print(flush=True)


def main() -> None:
    """Run the command line."""
    parser = options(__doc__)
    names = ", ".join(NAMED)
    default = ["300000", *NAMED, "1000", "10000", "100000"]
    parser.add_argument("--policies", nargs="+", default=default, help=f"{names}, or a GOMP_SPINCOUNT")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--seconds", type=positive, default=1.0, help="of a turn (default: 1)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(device="cpu")
    args = parser.parse_args()
    if args.device != "cpu":
        parser.error("--device: OpenMP's threads are the CPU's")
    if args.serve:
        return serve(args.works, args.threads, args.seconds)
    rows = measure(args)
    show(rows, args.policies)
    save(args, rows)


if __name__ == "__main__":
    main()
