"""Write a trained model as a folder that needs no fairseq: ``python -m resmlp_mt.export MODEL -o FOLDER``."""

import argparse
from pathlib import Path

from safetensors.torch import save

from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.files import replacing, write_json
from resmlp_mt.translation.loading import SETTINGS, WEIGHTS, Trained, read_trained
from resmlp_mt.translation.network import TIED, Network
from resmlp_mt.translation.onnx_graphs import write_onnx


def export(trained: Trained, out: Path, onnx: bool = False) -> None:
    """Write a model's weights, settings and vocabulary into a new folder, which ``load_translator`` reads.

    Args:
        trained: as ``read_trained`` gives it.
        out: the folder to make: model.safetensors, settings.json, sentencepiece.model and a dict.LANGUAGE.txt for each
            language.
        onnx: write encoder.onnx and decoder.onnx as well; ``resmlp_mt.translation.onnx_graphs`` says what they read.

    Raises:
        UserError: the folder exists, or the model is not one that could be translated with.
        OSError: it cannot be written; nothing half-written stays behind.
    """
    if out.exists():
        raise UserError(f"-o {out} exists: remove it, or name another folder")
    network = Network(trained.weights, trained.settings)  # refuses what could not be loaded again
    weights = {name: weight.contiguous() for name, weight in trained.weights.items()}
    for name, source in TIED.items():
        if name in weights and source in trained.weights and weights[name].equal(trained.weights[source]):
            del weights[name]  # the file holds tied matrices once
    vocabulary = trained.vocabulary
    sides = (("source_lang", vocabulary.source), ("target_lang", vocabulary.target))
    with replacing(out) as partial:
        partial.mkdir(parents=True)
        (partial / WEIGHTS).write_bytes(save(weights))  # save_file hides a full disk, and the file from other users
        write_json(partial / SETTINGS, dict(trained.settings))
        (partial / "sentencepiece.model").write_bytes(vocabulary.model)
        if onnx:
            write_onnx(network, partial)
        for language, symbols in sides:
            lines = "".join(f"{symbol} 1\n" for symbol in symbols[4:])  # fairseq's four are in no file
            (partial / f"dict.{trained.settings[language]}.txt").write_text(lines, encoding="utf-8")


@reporting("export")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m resmlp_mt.export",
        description="Write a model as a folder that load_translator and resmlp-translate read without fairseq.",
    )
    parser.add_argument("model", metavar="MODEL", help="a recipe's folder of a model, or a checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument("--sentencepiece", metavar="FILE", help="its sentencepiece model, if not near the checkpoint")
    parser.add_argument("--dictionaries", metavar="FOLDER", help="of its dict.LANGUAGE.txt, if not near the checkpoint")
    parser.add_argument("--onnx", action="store_true", help="write encoder and decoder for ONNX Runtime as well")
    args = parser.parse_args()
    export(read_trained(args.model, args.sentencepiece, args.dictionaries), args.output, args.onnx)
    megabytes = (args.output / WEIGHTS).stat().st_size / 1e6
    print(f"{args.output}: {megabytes:,.1f} MB of weights, with vocabulary and settings")


if __name__ == "__main__":
    main()
