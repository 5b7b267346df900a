"""Translating a file: sentences a second and BLEU of whole commands, ResMLP beside fairseq's Transformer.

    python -m resmlp_mt.recipe multi30k --arch resmlp_tiny --out build/multi30k
    python -m resmlp_mt.recipe multi30k --arch transformer --out build/multi30k
    python benchmarks/mt_translate.py build/multi30k [--ours resmlp_tiny] [--beams 4 1]

The work is the recipe's test set, from the command's start to its end. ResMLP goes through resmlp-translate, the
Transformer through fairseq-interactive and, converted, through CTranslate2. Precisions that the processor has no
instructions for are left out of ResMLP's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import in_turns, options, row_of, save

import ctranslate2
import fairseq
import onnxruntime
from sacrebleu import corpus_bleu

import resmlp_mt
from resmlp_core.common.arguments import at_least
from resmlp_mt.data.generate_output import read_hypotheses
from resmlp_mt.translation.products import IS_FAST

PEER = "fairseq-interactive"
MAX_TOKENS = "4096"  # of a batch, for all


def commands(args: argparse.Namespace, source: Path, beam: int, folder: Path) -> dict[str, list[str]]:
    """Return each contender's command; ``{out}`` in it is the file that its translations go to."""
    spm, converted = args.run / "sentencepiece.model", folder / "converted"
    lines = {}
    for dtype, is_fast in IS_FAST.items():
        if is_fast():
            translate = [sys.executable, "-m", "resmlp_mt.translate", args.run / args.ours, source]
            options = ("-o", "{out}", "--force", "--beam", beam, "--dtype", dtype, "--max-tokens", MAX_TOKENS)
            lines[f"ResMLP {dtype}"] = [*translate, *options]
    languages = args.pair.split("-")
    lines[PEER] = [
        *(sys.executable, "-m", "fairseq_cli.interactive", args.run / "data-bin", "--input", source, "--cpu"),
        *("--path", args.run / args.peer / "model.pt", "--source-lang", languages[0], "--target-lang", languages[1]),
        *("--user-dir", Path(resmlp_mt.__file__).parent),  # with which fairseq reads checkpoints in a current PyTorch
        *("--beam", beam, "--max-tokens", MAX_TOKENS, "--buffer-size", 1024),
        *("--bpe", "sentencepiece", "--sentencepiece-model", spm),
    ]
    child = Path(__file__).with_name("ctranslate2_file.py")
    for dtype in ("float32", "int8"):
        what = (sys.executable, child, converted, spm, source, "{out}", dtype, beam, args.positions)
        lines[f"CTranslate2 {dtype}"] = [*what, 1, args.threads]
        if args.threads > 1:
            lines[f"CTranslate2 {dtype}, a batch a thread"] = [*what, args.threads, 1]
    return {name: [str(word) for word in line] for name, line in lines.items()}


def convert(args: argparse.Namespace, folder: Path) -> None:
    """Convert fairseq's Transformer for CTranslate2."""
    source, target = args.pair.split("-")
    converter = ctranslate2.converters.FairseqConverter(
        str(args.run / args.peer / "model.pt"), str(args.run / "data-bin"), source_lang=source, target_lang=target
    )
    converter.convert(str(folder / "converted"))


def whole(name: str, line: list[str], folder: Path, memory: dict[str, int]) -> Callable[[], None]:
    """Prepare to run a command; its translations go to a file of the contender's name."""
    out = folder / name

    def call() -> None:
        with (folder / "printed").open("w") as printed, (folder / "told").open("w") as told:
            command = [word.replace("{out}", str(out)) for word in line]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=printed, stderr=told)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{name} ended with status {process.returncode}: {(folder / 'told').read_text()[-1000:]}")
        memory[name] = max(memory.get(name, 0), used.ru_maxrss * 1024)
        if "{out}" not in line:
            out.write_text("".join(f"{text}\n" for text in read_hypotheses(folder / "printed")), "utf-8")

    return call


def compare(args: argparse.Namespace, beam: int, folder: Path) -> list[dict[str, Any]]:
    """Let all commands translate the test set in turns."""
    source, reference = (args.run / "text" / f"test.{language}" for language in args.pair.split("-"))
    references = reference.read_text("utf-8").splitlines()
    memory: dict[str, int] = {}
    lines = commands(args, source, beam, folder)
    seconds = in_turns({name: whole(name, line, folder, memory) for name, line in lines.items()}, args.rounds)
    rows = []
    for name in lines:
        bleu = corpus_bleu((folder / name).read_text("utf-8").splitlines(), [references]).score
        case = {"beam": beam, "sentences": len(references), "BLEU": round(bleu, 2)}
        rows.append(row_of(case, name, seconds, len(references), PEER, memory[name]))
    return rows


def main() -> None:
    """Run the command line."""
    parser = options(__doc__)
    parser.add_argument("run", type=Path, help="--out of the recipe that trained both")
    parser.add_argument("--ours", default="resmlp_tiny", help="ResMLP's architecture (default: %(default)s)")
    parser.add_argument("--peer", default="transformer", help="the Transformer's (default: %(default)s)")
    parser.add_argument("--beams", nargs="+", type=at_least(1), default=[4, 1])
    parser.set_defaults(rounds=3)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    settings = json.loads((args.run / args.peer / "settings.json").read_text("utf-8"))
    args.pair, args.positions = settings["pair"], settings["train"].get("max-target-positions", 1024)
    with tempfile.TemporaryDirectory() as name:
        convert(args, Path(name))
        rows = [row for beam in args.beams for row in compare(args, beam, Path(name))]
    versions = {"ctranslate2": ctranslate2.__version__, "onnxruntime": onnxruntime.__version__}
    save(args, rows, fairseq=fairseq.__version__, **versions)


if __name__ == "__main__":
    main()
