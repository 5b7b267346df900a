"""Refuse a training whose processes differ in a setting or in their data: fairseq would average their gradients.

Each machine of a training is given its own command line and its own copy of the data.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import wraps
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

from resmlp_mt.patches.shared_checkpoint import tell_the_others

SAMPLE = 100  # sentences by which two training sets of equal lengths are compared

# What a process is for, where a machine keeps its files, and what only shows.
FREE = {
    *("distributed_rank", "device_id", "distributed_init_method", "distributed_port", "distributed_no_spawn"),
    *("distributed_num_procs", "nprocs_per_node", "cpu", "job_logging_cfg"),
    *("data", "save_dir", "restore_file", "finetune_from_model", "continue_once", "user_dir", "checkpoint_suffix"),
    *("tensorboard_logdir", "log_file", "log_interval", "log_format", "no_progress_bar", "num_workers", "profile"),
    *("wandb_project", "azureml_logging", "aim_repo", "aim_run_hash", "plasma_path"),
}


def settings_of(options: Any, section: str = "") -> dict[str, str]:
    """Return the options that all processes must share, as ``section.name``, from fairseq's, which are nested."""
    settings: dict[str, str] = {}
    for name, value in (vars(options) if isinstance(options, Namespace) else options).items():
        if name in FREE:
            continue
        if isinstance(value, Mapping | Namespace):
            settings |= settings_of(value, f"{section}{name}.")
        else:
            settings[section + name] = str(value)
    return settings


def refuse_other_settings(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap the trainer's ``__init__``, which is given all options and begins to speak with the other ranks."""

    @wraps(init)
    def checked(self: Trainer, cfg: Any, *args: Any, **kwargs: Any) -> None:
        self.cfg = cfg
        if self.data_parallel_world_size > 1:
            mine = settings_of(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
            mine["float32_matmul_precision"] = torch.get_float32_matmul_precision()
            told = tell_the_others(self, mine)
            for rank, settings in enumerate(told):
                for name in sorted(told[0].keys() | settings.keys()):
                    if settings.get(name) != told[0].get(name):
                        values = f"{settings.get(name)} on rank {rank}, {told[0].get(name)} on rank 0"
                        raise ValueError(f"{name.rpartition('.')[2]} is {values}: give all processes the same")
        init(self, cfg, *args, **kwargs)

    return checked


def digest_of(dataset: Any) -> str:
    """Digest what tells a training set: the lengths of all its sentences, and the tokens of a few."""
    digest = sha256(str(len(dataset)).encode())
    if getattr(dataset, "sizes", None) is not None:
        digest.update(np.asarray(dataset.sizes).tobytes())
    for i in range(0, len(dataset), max(1, len(dataset) // SAMPLE)):
        sentence = dataset[i]
        for part in sentence.values() if isinstance(sentence, dict) else (sentence,):
            if torch.is_tensor(part):
                digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def refuse_other_data(get_train_iterator: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the trainer's ``get_train_iterator``, which loads the training set."""

    @wraps(get_train_iterator)
    def checked(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        iterator = get_train_iterator(self, *args, **kwargs)
        if self.data_parallel_world_size > 1:
            told = tell_the_others(self, digest_of(iterator.dataset))
            if len(set(told)) > 1:
                rank = next(rank for rank, its in enumerate(told) if its != told[0])
                raise ValueError(f"rank {rank} has other training data than rank 0: give all processes the same")
        return iterator

    return checked


def install() -> None:
    """Let the ranks of a training compare what they were given before they begin."""
    Trainer.__init__ = refuse_other_settings(Trainer.__init__)
    Trainer.get_train_iterator = refuse_other_data(Trainer.get_train_iterator)
