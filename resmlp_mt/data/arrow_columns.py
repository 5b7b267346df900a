"""The sentence pairs of Arrow's tables, which parquet files and the hub's data sets hold."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from resmlp_core.common.errors import UserError
from resmlp_mt.text import one_line


def pairs_of(batches: Iterable[Any], source: str, target: str, where: str, errors: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of Arrow batches or tables that have either schema."""
    batch = None
    for batch in batches:
        yield from zip(*(_column(batch, language, where, errors) for language in (source, target)), strict=True)
    if batch is None:
        raise UserError(f"{where} is empty")


def _column(batch: Any, language: str, where: str, errors: str) -> list[str]:
    schema = batch.schema
    within = "translation" in schema.names and pa.types.is_struct(kind := schema.field("translation").type)
    languages = [field.name for field in kind] if within else schema.names
    if language not in languages:
        raise UserError(f"{where}: there is no language {language!r}; those there are {', '.join(languages)}")
    if languages.count(language) > 1:
        raise UserError(f"{where}: there is more than one column {language!r}")
    column = pc.struct_field(batch.column("translation"), language) if within else batch.column(language)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UserError(f"{where}: {language!r} holds {column.type}, not text")
    try:  # as bytes, since pyarrow decodes strictly
        return [one_line((text or b"").decode("utf-8", errors)) for text in column.cast(pa.large_binary()).to_pylist()]
    except UnicodeDecodeError:
        raise UserError(f"{where}: the text in {language!r} is not UTF-8") from None
