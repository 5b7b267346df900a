"""The control groups by which Linux bounds what a container, a service or a job may use."""

from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def control_groups(controller: str = "", own: Path = OWN) -> list[Path]:
    """Name this process's control group and those that hold it, the innermost first, as folders below their root.

    Args:
        controller: of version 1, such as ``memory``; none for the groups of version 2.
        own: tells which groups are this process's; where it does not, the root counts.
    """
    lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
    found = [folder for _, names, folder in (line.split(":", 2) for line in lines) if controller in names.split(",")]
    inner = Path(found[0].lstrip("/") if found else ".")
    return [inner, *inner.parents]
