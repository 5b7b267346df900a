"""Decoding: tokens a second, ResMLP beside fairseq's Transformer and CTranslate2's of equal dimensions.

    python benchmarks/mt_decode.py [--sizes base tiny] [--beams 4 1] [--layers ENCODER DECODER]

Models of random weights translate random sentences by beam search; all hypotheses are forced to one length, that of
their sources. fairseq's Transformer goes through fairseq-generate's own generator; ResMLP does so too, and through its
own search in every arithmetic that the processor has. CTranslate2 has its turn with all threads and with one, which on
some machines is several times as fast. What a step takes grows with the length: the cases of one sentence tell how
fast.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ctranslate2  # isort: skip  before PyTorch: else both share one OpenMP, which then lets their threads sleep

from measure import options, save, summarise

import fairseq
import onnxruntime
import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from mt_train import MODELS, PEER, SIZES, make_dictionary, make_trainer
from resmlp_core.common.arguments import at_least
from resmlp_mt.translation.network import Network
from resmlp_mt.translation.products import IS_FAST
from resmlp_mt.translation.search import SearchOptions, search

CASES = ((1, 10), (1, 50), (1, 200), (16, 50))  # sentences a batch, tokens a sentence


def make_models(size: str, layers: list[int], dictionary: Dictionary, device: str) -> tuple[dict[str, Any], ...]:
    """Build ResMLP and fairseq's Transformer, ready to generate; ResMLP's networks; CTranslate2's translators."""
    more = ["--source-lang", "en", "--target-lang", "de", *(["--cpu"] if device == "cpu" else [])]
    for side, number in zip(("encoder", "decoder"), layers, strict=True):
        more += [f"--{side}-layers", str(number)]
    trainers = {name: make_trainer(arch, size, dictionary, more) for name, arch in MODELS.items()}
    translators = convert(trainers[PEER], dictionary, device)
    models = {name: trainer.model.eval() for name, trainer in trainers.items()}
    weights, heads = models["ours"].state_dict(), SIZES[size][3]
    settings = {"heads": heads, "activation": "gelu", "scale_embedding": True}
    dtypes = ["float32", "bfloat16", "float16"]
    if device == "cpu":
        dtypes = [dtype for dtype, is_fast in IS_FAST.items() if is_fast()]  # the others would be emulated
    networks = {f"ResMLP {dtype}": Network(weights, settings).to(device).prepare(dtype) for dtype in dtypes}
    for model in models.values():
        model.make_generation_fast_()
    return models, networks, translators


def convert(trainer: Any, dictionary: Dictionary, device: str) -> dict[str, Any]:
    """Convert fairseq's Transformer for CTranslate2: a translator for each arithmetic."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "checkpoint.pt")
        trainer.consolidate_optimizer()  # fairseq does so before it saves
        trainer.save_checkpoint(str(checkpoint), {})
        for language in ("en", "de"):
            dictionary.save(str(Path(folder, f"dict.{language}.txt")))
        converter = ctranslate2.converters.FairseqConverter(str(checkpoint), folder, source_lang="en", target_lang="de")
        converted = converter.convert(str(Path(folder, "converted")))
        names = {torch.get_num_threads(): ""}
        if device == "cpu":
            names.setdefault(1, ", one thread")
        return {
            f"CTranslate2 {kind}{name}": ctranslate2.Translator(
                converted, device=device, compute_type=kind, intra_threads=threads
            )
            for kind in ("float32", "int8")
            for threads, name in names.items()
        }


def generate(model: nn.Module, dictionary: Dictionary, sources: Tensor, beam: int) -> Callable[[], None]:
    """Prepare fairseq's generator to translate sources, ``(batch, length)``, into as many tokens."""
    length = sources.size(1)
    generator = SequenceGenerator([model], dictionary, beam_size=beam, min_len=length - 1, max_len_b=length - 1)
    sample = {"net_input": {"src_tokens": sources, "src_lengths": torch.full((len(sources),), length)}}
    return lambda: check((len(best["tokens"]) for best, *_ in generator.generate([], sample)), length)


def find(network: Network, sources: Tensor, beam: int) -> Callable[[], None]:
    """Prepare ResMLP's own search to do the same."""
    length = sources.size(1)
    options = SearchOptions(beam, min_len=length - 1, max_len_b=length - 1)
    return lambda: check((len(best.tokens) for best, *_ in search(network, sources, options)), length)


def translate(translator: Any, dictionary: Dictionary, sources: Tensor, beam: int) -> Callable[[], None]:
    """Prepare CTranslate2 to do the same."""
    length = sources.size(1)
    words = [[dictionary[i] for i in source[:-1].tolist()] for source in sources]  # it adds the end of sentence itself
    limits = {"min_decoding_length": length, "max_decoding_length": length}
    return lambda: check(
        (len(found.hypotheses[0]) for found in translator.translate_batch(words, beam_size=beam, **limits)), length
    )


def check(lengths: Iterable[int], expected: int) -> None:
    """Make sure that the work was what is compared."""
    assert set(lengths) == {expected}


def make_sources(dictionary: Dictionary, batch: int, length: int, device: str) -> Tensor:
    """Draw sentences, ``(batch, length)``, the end of sentence included."""
    sources = torch.randint(4, len(dictionary), (batch, length), generator=torch.Generator().manual_seed(1))
    sources[:, -1] = dictionary.eos()
    return sources.to(device)


def compare(size: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all models at one size."""
    dictionary = make_dictionary(SIZES[size][4])
    layers = args.layers or [SIZES[size][2]] * 2
    models, networks, translators = make_models(size, layers, dictionary, args.device)
    rows = []
    for beam in args.beams:
        for batch, length in CASES:
            sources = make_sources(dictionary, batch, length, args.device)
            contenders = {name: generate(model, dictionary, sources, beam) for name, model in models.items()}
            contenders |= {name: find(network, sources, beam) for name, network in networks.items()}
            contenders |= {
                name: translate(translator, dictionary, sources, beam) for name, translator in translators.items()
            }
            shape = "+".join(map(str, layers))
            case = {"size": size, "layers": shape, "beam": beam, "batch": batch, "length": length}
            rows += summarise(case, contenders, batch * length, PEER, args.rounds, args.device)
    return rows


def main() -> None:
    """Run the command line."""
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["base"])
    parser.add_argument("--beams", nargs="+", type=at_least(1), default=[4, 1])
    parser.add_argument(
        "--layers",
        nargs=2,
        type=at_least(1),
        metavar=("ENCODER", "DECODER"),
        help="of every model (default: as many on both sides as the size has)",
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [row for size in args.sizes for row in compare(size, args)]
    save(
        args,
        rows,
        fairseq=fairseq.__version__,
        ctranslate2=ctranslate2.__version__,
        onnxruntime=onnxruntime.__version__,
    )


if __name__ == "__main__":
    main()
