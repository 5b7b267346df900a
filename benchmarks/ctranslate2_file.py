"""Translate a file by CTranslate2, which mt_translate.py measures.

python benchmarks/ctranslate2_file.py MODEL SENTENCEPIECE SOURCE OUTPUT TYPE BEAM POSITIONS AT_ONCE THREADS

AT_ONCE batches are translated at once, each by so many THREADS.
"""

import sys
from pathlib import Path

import ctranslate2
from sentencepiece import SentencePieceProcessor

model, spm, source, output, kind, beam, positions, at_once, threads = sys.argv[1:]
pieces = SentencePieceProcessor(model_file=spm)
translator = ctranslate2.Translator(model, compute_type=kind, inter_threads=int(at_once), intra_threads=int(threads))
sentences = pieces.encode(Path(source).read_text("utf-8").splitlines(), out_type=str)
limits = {"max_batch_size": 4096, "batch_type": "tokens", "max_decoding_length": int(positions) - 1}
found = translator.translate_batch(sentences, beam_size=int(beam), **limits)
Path(output).write_text("".join(f"{pieces.decode(best.hypotheses[0])}\n" for best in found), "utf-8")
