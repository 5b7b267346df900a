"""A rehearsal of a training: every part of it, at full size and on its own data, but little of each."""

import time
from contextlib import ExitStack
from pathlib import Path

from resmlp_core.common.rehearsal import Rehearsal
from resmlp_core.common.rehearsal_report import conclude, folder_of, rehearsing
from resmlp_vision.config import Settings
from resmlp_vision.distributed import gather, rank
from resmlp_vision.training.rehearsal_parts import Parts
from resmlp_vision.training.run import join
from resmlp_vision.training.trainer import Trainer


def rehearse(
    config: Settings,
    trainer_type: type[Trainer[Settings]],
    name: str,
    command: str,
    minutes: float,
    price: float | None,
) -> int:
    """Rehearse a training in ``OUT.rehearsal``, print what was found, and write it to rehearsal.json there.

    Args:
        config: the settings of the training.
        trainer_type: how it trains.
        name: of what is rehearsed.
        command: that starts the training itself.
        minutes: that it may take, on a machine that can train at all.
        price: of an hour.

    Returns:
        The exit status: 0 if the training can start, else 1.

    Raises:
        UserError: the rehearsal itself cannot start, or another process than the first failed.
    """
    start = time.monotonic()
    device = join(config)
    with ExitStack() as stack:
        folder = folder_of(Path(config.out))
        if rank() == 0:
            folder = stack.enter_context(rehearsing(Path(config.out)))
            print(
                f"Rehearsing {name} in {folder}, for about {minutes:g} min: the largest batch that fits, the speed "
                "of the loader and of each part of an update, a training up to the highest rate that is validated, "
                "saved, killed and resumed. Nothing is written elsewhere.",
                flush=True,
            )
        gather(None)  # the folder is there
        found = Rehearsal(run=name, command=command, unit="images", price=price)
        parts = Parts(config, trainer_type, device, folder, found, 60 * minutes)
        failed = parts.run()
        found.minutes = (time.monotonic() - start) / 60
        if rank() > 0:
            if failed:
                time.sleep(10)  # the first process says why, before torchrun ends it
            return int(failed or gather(0)[0])
        status = conclude(found, folder, parts.changes())
        return status if failed else int(gather(status)[0])
