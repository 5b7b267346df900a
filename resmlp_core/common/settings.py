"""Settings of a run: read from YAML and ``key=value``, and compared with those that the run was started with."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from resmlp_core.common.errors import UserError


@contextmanager
def reading_settings(source: object, overrides: Sequence[str], where: str = "") -> Iterator[None]:
    """Refuse settings that OmegaConf cannot read or merge, in one line each.

    Args:
        source: where the settings are from; a path must be that of a file.
        overrides: what the command line adds, ``key=value`` each.
        where: what stands before a key in a message, such as the file's name.

    Raises:
        UserError: no such file, an override without ``=``, or what OmegaConf raises in the block.
    """
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"no recipe {source}")
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{override!r} is not key=value")
    try:
        yield
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{source} is not YAML, or an override is not: {' '.join(str(error).split())}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{where}{error.full_key or 'the settings'}: {str(error.msg).splitlines()[0]}") from None
    except (OverflowError, ValueError) as error:  # OmegaConf does not say of which
        raise UserError(f"a setting is no number that a computer can hold: {error}") from None


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs between two sets of settings: key, value before, value now; None where one lacks the key."""
    for key in [*now, *(key for key in before if key not in now)]:
        if before.get(key) != now.get(key):
            yield key, before.get(key), now.get(key)
