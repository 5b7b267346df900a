"""One small corpus and one tiny model, made once by the commands under test and used everywhere."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import sentencepiece

from resmlp_mt.prepare import prepare

from .commands import PLUGIN, TINY, TRAINING, end_what_is_left, run

GRAMMAR = Path(__file__).parents[2] / "recipes" / "demo" / "grammar.py"


@dataclass
class Corpus:
    """A prepared folder, and its test set as text for ``--dataset-impl raw``."""

    folder: Path
    raw: Path

    @property
    def data(self) -> Path:
        return self.folder / "data-bin"

    @property
    def sentencepiece(self) -> Path:
        return self.folder / "sentencepiece.model"

    def text(self, name: str) -> list[str]:
        return (self.folder / "text" / name).read_text(encoding="utf-8").splitlines()

    def encode(self, sentences: list[str]) -> list[str]:
        """Return the pieces of each sentence, with a space between them, as ``--dataset-impl raw`` reads them."""
        processor = sentencepiece.SentencePieceProcessor(model_file=str(self.sentencepiece))
        return [" ".join(processor.encode(sentence, out_type=str)) for sentence in sentences]

    def write_raw(self, folder: Path, sources: list[str], targets: list[str]) -> Path:
        """Write encoded pairs as a test set for ``--dataset-impl raw``."""
        folder.mkdir()
        for language, lines in (("en", sources), ("de", targets)):
            (folder / f"dict.{language}.txt").write_bytes((self.data / f"dict.{language}.txt").read_bytes())
            (folder / f"test.en-de.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return folder


@dataclass
class Trained:
    """A finished training run: its options (less --save-dir), its folder, and what it logged."""

    options: tuple
    folder: Path
    log: str

    @property
    def last(self) -> Path:
        return self.folder / "checkpoint_last.pt"

    @property
    def earlier(self) -> Path:
        return self.folder / "checkpoint3.pt"


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    yield
    end_what_is_left()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    sizes = ["--train", "600", "--valid", "60", "--test", "60"]
    subprocess.run([sys.executable, GRAMMAR, folder / "text", *sizes], check=True)
    prepare(folder / "text", "en", "de", 300, folder / "prepared", workers=1)
    corpus = Corpus(folder / "prepared", folder / "raw")
    corpus.write_raw(corpus.raw, corpus.encode(corpus.text("test.en")), corpus.encode(corpus.text("test.de")))
    return corpus


@pytest.fixture(scope="session")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    options = (
        *(corpus.data, *PLUGIN, *TINY, *TRAINING, "--share-all-embeddings", "--label-smoothing", 0.1),
        *("--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 30}', "--eval-bleu-remove-bpe", "sentencepiece"),
        *("--save-interval-updates", 40),
    )
    board = ("--tensorboard-logdir", folder / "tensorboard")
    log = run("fairseq_cli.train", *options, *board, "--max-update", 120, "--save-dir", folder)
    return Trained(options, folder, log)
