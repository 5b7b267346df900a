"""The first stage of ``resmlp_mt.prepare``: the corpus as text, less the training pairs that break a rule."""

from collections import Counter
from contextlib import ExitStack
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.common.errors import UserError
from resmlp_core.common.files import digest, replacing
from resmlp_mt.data.cleaning import Duplicates, Rules
from resmlp_mt.data.corpus import count_pairs, fingerprint, read_pairs
from resmlp_mt.data.normalization import normalizer
from resmlp_mt.data.prepared import BAR, SPLITS, Settings, create_text, open_text

EMPTY_SIDES = Rules()  # a pair with an empty side is left out under any rules, and under these no other


def write_text(settings: Settings, out: Path, workers: int, report: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Write the pairs as text/{split}.{language}, less the train pairs that break a rule."""
    source_sha256 = fingerprint(settings.data, settings.source_lang, settings.target_lang)
    with replacing(out / "text") as partial:
        partial.mkdir()
        counts: dict[str, Any] = {split: _write_split(settings, split, partial) for split in SPLITS}
        sha256 = digest(sorted(partial.iterdir()))
    sizes = ", ".join(f"{split} {counts[split]['kept']}" for split in ("train", "valid", "test"))
    dropped = ", ".join(f"{number} {rule}" for rule, number in counts["train"]["dropped"].items())
    counts |= {"sha256": sha256, "source_sha256": source_sha256}
    return counts, f"{sizes} pairs; left out of train: {dropped or 'none'}"


def _write_split(settings: Settings, split: str, folder: Path) -> dict[str, Any]:
    corpus = (settings.data, settings.source_lang, settings.target_lang, split)
    paths = [folder / f"{split}.{language}" for language in (settings.source_lang, settings.target_lang)]
    cleaned = split == "train"  # the references of valid and test stay as they are: a score is over all of them
    rules: Rules = settings if cleaned else EMPTY_SIDES
    seen_as = normalizer(settings.normalization)
    dropped: Counter[str] = Counter()
    read = usable = 0
    with ExitStack() as stack:
        duplicates = None
        if cleaned and settings.drop_duplicates:
            digests = TemporaryDirectory(dir=folder, prefix="digests")
            duplicates = Duplicates(Path(stack.enter_context(digests)))
        pairs = read_pairs(*corpus, mend_encoding=cleaned and settings.drop_bad_encoding)
        bar = tqdm(pairs, f"reading {split}", count_pairs(*corpus), **BAR)
        with create_text(paths[0]) as sources, create_text(paths[1]) as targets:
            for pair in bar:
                read += 1
                seen = (seen_as(pair[0]), seen_as(pair[1]))
                broken = rules.broken_by(pair, seen)
                usable += not broken
                if cleaned and broken:
                    dropped[broken] += 1
                    continue
                if duplicates:
                    duplicates.add(*seen)
                sources.write(pair[0] + "\n")
                targets.write(pair[1] + "\n")
        if duplicates:
            again = duplicates.find()
            dropped["duplicates"] = int(again.sum())
            for path in paths:
                with replacing(path) as partial, create_text(partial) as file, open_text(path) as lines:
                    file.writelines(compress(lines, ~again))
    if not usable:
        raise UserError(f"--data {settings.data}: {split} has no pair with text on both sides, or none that is kept")
    return {"read": read, "kept": read - dropped.total(), "dropped": dict(dropped)}
