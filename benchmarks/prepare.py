"""Time, memory and disk that preparing a corpus takes, by its size:

    python benchmarks/prepare.py [--pairs 1000000 4000000] [--out build/benchmarks]

Corpora are generated: words of a Zipf distribution, 25 a sentence, one sentence in fifty of the kinds that cleaning
leaves out. Each is prepared by the real command with all rules but --max-chars on, in a process of its own whose peak
of resident memory is read when it ends; the disk is watched meanwhile. Writes prepare.json.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure import save

import numpy as np
import sentencepiece

from resmlp_core.common.arguments import at_least

RULES = ["--max-words", "200", "--max-ratio", "3", "--drop-identical", "--drop-bad-encoding", "--drop-duplicates"]
WORDS = 200_000  # of each language
CHUNK = 10_000
SYLLABLES = {
    "en": [a + b for a in "bdfglmnprst" for b in "aeiou"],
    "de": [a + b for a in "bdfgkmnrstz" for b in "aeiöü"],
}


def write_corpus(folder: Path, pairs: int, seed: int = 1) -> None:
    """Write ``{train,valid,test}.{en,de}`` of random words; a word of one language always has the same of the other."""
    rng = np.random.default_rng(seed)
    words = {}
    for language, syllables in SYLLABLES.items():
        sizes = rng.integers(1, 5, WORDS)
        words[language] = np.array(["".join(rng.choice(syllables, size)) for size in sizes], dtype=object)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("valid", 1000), ("test", 1000), ("train", pairs)):
        with (folder / f"{split}.en").open("w") as source, (folder / f"{split}.de").open("w") as target:
            for start in range(0, count, CHUNK):
                lengths = rng.integers(5, 46, min(CHUNK, count - start))
                ids = np.minimum(rng.zipf(1.2, lengths.sum()), WORDS) - 1
                bounds = [0, *np.cumsum(lengths)]
                sides = {lang: words[lang][ids] for lang in words}
                for i, (a, b) in enumerate(pairwise(bounds)):
                    one, other = (" ".join(sides[lang][a:b]) for lang in ("en", "de"))
                    if i % 250 == 0:
                        other = one  # identical
                    elif i % 250 == 50:
                        one = "schÃ¶n " + one  # badly encoded
                    elif i % 250 == 100:
                        other = ""
                    elif i % 250 == 150:
                        other = other.split()[0]  # of another length
                    elif i % 250 == 200:
                        one, other = "again and again", "ögaz baga ziga"  # a duplicate
                    source.write(one + "\n")
                    target.write(other + "\n")


def size(folder: Path) -> int:
    """Bytes in all files of a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed meanwhile
            continue
    return total


def measure(pairs: int, out: Path) -> dict[str, Any]:
    """Prepare a corpus of so many pairs and tell what it took."""
    data, prepared = out / f"corpus-{pairs}", out / f"prepared-{pairs}"
    shutil.rmtree(prepared, ignore_errors=True)
    write_corpus(data, pairs)
    line = [sys.executable, "-m", "resmlp_mt.prepare", "--data", data, "--source-lang", "en", "--target-lang", "de"]
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.5):
            peak = max(peak, size(prepared))

    watcher = threading.Thread(target=watch)
    started = time.perf_counter()
    child = subprocess.Popen(
        [*map(str, line), "--vocab-size", "32000", "--out", str(prepared), *RULES], stdout=subprocess.PIPE, text=True
    )
    watcher.start()
    assert child.stdout is not None
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    if status:
        raise SystemExit(f"prepare ended with status {status}")
    stages = {name: float(took) for name, took in re.findall(r"^(\S+): .*\((\S+) s\)$", printed, flags=re.M)}
    text = size(data)
    report = json.loads((prepared / "prepare.json").read_text(encoding="utf-8"))
    shutil.rmtree(data)
    shutil.rmtree(prepared)
    return {
        "pairs": pairs,
        "text_bytes": text,
        "seconds": seconds,
        "stages": stages,
        "pairs_per_second": pairs / (stages["text"] + stages["data-bin"]),
        "peak_memory_bytes": usage.ru_maxrss * 1024,
        "peak_disk_over_text": peak / text,
        "dropped": report["text"]["train"]["dropped"],
    }


def main() -> None:
    """Run the command line."""
    about, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=at_least(1), nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    parser.set_defaults(device="cpu", threads=os.cpu_count())
    args = parser.parse_args()
    rows = []
    print(f"{'pairs':>12}{'text':>10}{'seconds':>9}{'cleaning':>10}{'vocabulary':>12}{'encoding':>10}", end="")
    print(f"{'pairs/s':>10}{'memory':>10}{'disk/text':>11}")
    for pairs in args.pairs:
        row = measure(pairs, args.out)
        rows.append(row)
        stages = row["stages"]
        print(f"{pairs:>12,}{row['text_bytes'] / 1e6:>7,.0f} MB{row['seconds']:>9.0f}", end="")
        print(f"{stages['text']:>10.0f}{stages['sentencepiece']:>12.0f}{stages['data-bin']:>10.0f}", end="")
        print(f"{row['pairs_per_second']:>10,.0f}{row['peak_memory_bytes'] / 1e6:>7,.0f} MB", end="")
        print(f"{row['peak_disk_over_text']:>11.2f}", flush=True)
    save(args, rows, sentencepiece=sentencepiece.__version__)


if __name__ == "__main__":
    main()
