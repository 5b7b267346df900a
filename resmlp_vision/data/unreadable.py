"""Images that cannot be read: they are counted over processes, told of once, and marked among those to validate on."""

import logging
import zlib
from multiprocessing import Array, Value
from typing import Any

from resmlp_core.common.errors import UserError
from resmlp_vision.distributed import gather

log = logging.getLogger(__name__)

UNREADABLE = -100  # the label of a validation image that cannot be read; data sets use -1 for no label
REMEMBERED = 1000  # images whose skipping has been told


class Unreadable:
    """Counts the images of a pass over the data that cannot be read, over the loader's processes.

    It also keeps a label that is no class number, which a stream shows only as it is read.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = Value("q", 0)
        self.no_class = Value("q", 0)
        self.told = Array("q", REMEMBERED)  # checksums of names, over all passes; 0 is a free place

    def add(self, name: str, error: Exception) -> None:
        """Count an image; name it in a warning the first time."""
        with self.count.get_lock():
            self.count.value += 1
            checksum, told = zlib.crc32(name.encode("utf-8", "surrogateescape")) + 1, self.told[:]
            if checksum in told:
                return
            self.told[told.index(0) if 0 in told else 0] = checksum
        log.warning("skipping %s: %s", name, str(error).partition("cannot be read as an image: ")[2] or error)

    def beyond(self) -> bool:
        """Return whether there were more than the limit."""
        return bool(self.count.value > self.limit)

    def refuse_more(self) -> None:
        """Raise a UserError if there were more than the limit, or a label is no class number."""
        if self.no_class.value:
            raise UserError(
                f"the label {self.no_class.value} is not a class number below num_classes; "
                "give another label_key or split"
            )
        if self.beyond():
            raise UserError(f"more than max_unreadable={self.limit} images cannot be read; check the disk")

    def finish(self) -> int:
        """End a pass: give the count over all processes that train together, and begin anew."""
        counts = gather(self.count.value)
        self.count.value = 0
        return sum(counts)


def unreadable_in(loader: Any) -> Unreadable:
    """Return the counter of a loader's data set, or of one within it; one that stays at 0 where there is none."""
    while loader is not None and not hasattr(loader, "unreadable"):
        loader = getattr(loader, "dataset", None)
    return Unreadable(limit=0) if loader is None else loader.unreadable
