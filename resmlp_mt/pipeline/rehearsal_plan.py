"""What a rehearsal asks of a process that trains, in a file that a variable names."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from resmlp_core.common.files import write_json

VARIABLE = "RESMLP_MT_REHEARSAL"


@dataclass
class Plan:
    """What a part of a rehearsed training is to do.

    Args:
        part: ``first``, which kills itself, or ``resumed``, which goes on from its checkpoint.
        seconds: that ``first``, ``usual`` updates, the ``ramp`` and the ``search`` for the largest batch may take.
        record: the file for what is seen.
        started: when the process was, in seconds since 1970.
        last: the update at which the first part was killed.
        batch: the most tokens that a device takes at once.
        roomy: whether these leave a tenth of the memory.
    """

    part: str
    seconds: dict[str, float]
    record: str
    started: float
    last: int = 0
    batch: int = 0
    roomy: bool = False

    def write(self, path: Path) -> None:
        """Write the plan."""
        write_json(path, asdict(self))


def read_plan(path: Path | None = None) -> Plan:
    """Read a plan; by default the one that this process was given."""
    return Plan(**json.loads(Path(path or os.environ[VARIABLE]).read_text(encoding="utf-8")))


def variable(path: Path) -> dict[str, str]:
    """Return the variable that gives a process the plan in a file."""
    return {VARIABLE: str(path.resolve())}
