"""One small corpus and one tiny model, made once by the commands under test and used everywhere."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sentencepiece
from warm_python import started_warm

from resmlp_mt.prepare import prepare

from .commands import PLUGIN, TINY, TRAINING, end_what_is_left, run

GRAMMAR = Path(__file__).parents[2] / "recipes" / "demo" / "grammar.py"
RECIPE = """
pair: en-de
data: {data}
vocab_size: 300
average: 2
shown_positions: 20
train:
  share-all-embeddings: true
  max-source-positions: 100
  max-target-positions: 100
  skip-invalid-size-inputs-valid-test: true
  criterion: label_smoothed_cross_entropy
  optimizer: adam
  lr: 0.01
  lr-scheduler: inverse_sqrt
  warmup-updates: 5
  max-tokens: 1000
  max-epoch: 3
  log-interval: 5
  num-workers: 0
  update-epoch-batch-itr: "True"
archs:
  resmlp_tiny: {{encoder-embed-dim: 16, encoder-ffn-embed-dim: 16, encoder-layers: 1, decoder-layers: 1}}
  transformer: {{encoder-embed-dim: 16, encoder-ffn-embed-dim: 16, encoder-layers: 1, decoder-layers: 1}}
generate: {{beam: 2, max-len-b: 20}}
"""


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


@pytest.fixture(scope="package", autouse=True)
def warm() -> Iterator[None]:
    """Start programs whose libraries are imported already."""
    with started_warm("fairseq.options", "fairseq.trainer", "fairseq.sequence_generator", "sentencepiece"):
        yield


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    yield
    end_what_is_left()


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    sizes = ["--train", "600", "--valid", "60", "--test", "60"]
    subprocess.run([sys.executable, GRAMMAR, folder / "text", *sizes], check=True)
    prepare(folder / "text", "en", "de", 300, folder / "prepared", workers=1)
    corpus = Corpus(folder / "prepared", folder / "raw")
    corpus.write_raw(corpus.raw, corpus.encode(corpus.text("test.en")), corpus.encode(corpus.text("test.de")))
    return corpus


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of two tiny models on 400 generated pairs."""
    folder = tmp_path_factory.mktemp("recipe")
    grammar = [sys.executable, GRAMMAR, folder / "corpus"]
    subprocess.run([*grammar, "--train", "400", "--valid", "20", "--test", "20"], check=True, capture_output=True)
    (folder / "recipe.yaml").write_text(RECIPE.format(data=folder / "corpus"))
    return folder / "recipe.yaml"
