"""What a GPU would refuse, and what it would be waited for, found on a pretended one (pretended_gpu.py)."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from integration.commands import ENVIRONMENT, PACKAGE, TINY, TRAINING
from vision.runs import TINY as TINY_VISION
from vision.runs import write_images
from warm_python import started_warm

from resmlp_mt.prepare import prepare

PYTORCH = "2.15."
MODELS = ("resmlp_", "fairseq.models.", "fairseq.modules.", "timm.", "lightly.")  # modules of what computes a model
# How often a function of them may wait for the GPU: none does so in an update.
TRAINER = "resmlp_vision.training.trainer.Trainer"
EPOCH = Counter({f"{TRAINER}.check_losses": 1, f"{TRAINER}.train_epoch": 2})  # their mean, if weights are finite
EVALUATION = Counter(
    {"resmlp_vision.evaluation.accuracy.evaluate": 1, "timm.task.evaluator.ClassificationEvaluator._summary": 2}
)
NEIGHBOURS = Counter({"resmlp_vision.evaluation.knn.knn": 1, "resmlp_vision.evaluation.knn.measure_knn": 2})
CLIPPING = Counter({"timm.utils.clip_grad.dispatch_clip_grad": 1})  # an update; PyTorch's, which waits for no real GPU
SEARCH = Counter(
    {
        "resmlp_mt.translation.decoding.Decoding.__init__": 1,  # whether there is padding
        "resmlp_mt.translation.search._hypotheses": 1 + 100 + 2 * 12,  # lengths; each step; where one of 12 ends
        "resmlp_mt.translation.search._draw": 1,
        "resmlp_mt.translation.translator.Translator._align": 1,
    }
)  # a batch of three sentences by four hypotheses
TEACHER = Counter({"resmlp_vision.training.tasks.HardDistillationTask.__init__": 1})
GRAMMAR = Path(__file__).parents[1] / "recipes" / "demo" / "grammar.py"
pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith(PYTORCH),
    reason=f"the pretended GPU replaces inner parts of PyTorch, as {PYTORCH}x has them",
)


def waits(*command: object) -> Counter[str]:
    """Run a program as on a GPU, in which no CPU tensor may meet a GPU's; return how often which function waits for it.

    Those of fairseq's programs around a model are left out: docs/architecture.md lists them.

    Args:
        command: a module and its arguments.
    """
    line = [sys.executable, Path(__file__).with_name("pretended_gpu.py"), "-m", *command]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.stdout, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["faults"] == {}
    assert done.returncode == 0, done.stderr[-4000:]
    assert report["operations"] > 100  # else it was no GPU that computed
    return Counter({place: count for place, count in report["synchronisations"].items() if place.startswith(MODELS)})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("corpus")
    sizes = ["--train", "600", "--valid", "60", "--test", "60"]
    subprocess.run([sys.executable, GRAMMAR, folder / "text", *sizes], check=True)
    prepare(folder / "text", "en", "de", 300, folder / "prepared", workers=1)
    with started_warm("fairseq.options", "fairseq.trainer", "fairseq.sequence_generator"):
        yield folder / "prepared" / "data-bin"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("torchvision")
    with started_warm("timm", "torchvision", "lightly.loss", "lightly.utils.scheduler", "datasets"):
        yield write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def translating(data, tmp_path_factory) -> tuple[Path, Counter[str]]:
    """Train a model with all that a layer may have; return its checkpoint, and what waited for the GPU."""
    folder = tmp_path_factory.mktemp("translating")
    model = (*TINY, "--arch", "resmlp_gated_tiny", "--position-convolution", 3)
    line = (data, "--user-dir", PACKAGE, *model, *TRAINING, "--optimizer", "muon", "--lr", 0.01)
    found = waits("fairseq_cli.train", *line, "--max-update", 4, "--save-dir", folder)
    return folder / "checkpoint_best.pt", found


@pytest.fixture(scope="module")
def classifying(images, tmp_path_factory) -> tuple[Path, Counter[str]]:
    """Train a classifier for two epochs; return its checkpoint, and what waited for the GPU."""
    folder = tmp_path_factory.mktemp("classifying")
    line = (f"data={images}", f"out={folder}", *TINY_VISION, "device=cuda", "epochs=2", "mixup=0.8", "ema_decay=0.9")
    return folder / "last.pth.tar", waits("resmlp_vision.train", *line)


def test_translation_waits_for_no_gpu_in_an_update(translating):
    assert translating[1] == Counter()


@pytest.mark.parametrize("options", [(), ("--print-alignment",)])
def test_fairseqs_search_waits_for_no_gpu_in_a_model(data, translating, options):
    using = ("--path", translating[0], "--beam", 2, "--max-len-b", 5, "--num-workers", 0, *options)
    assert waits("fairseq_cli.generate", data, "--user-dir", PACKAGE, *using) == Counter()


def test_fairseqs_hub_interface_waits_for_no_gpu_in_a_model(data, translating):
    assert waits("hub_translation", translating[0], data, data.parent / "sentencepiece.model") == Counter()


@pytest.mark.parametrize("options", [("--nbest", 2, "--alignments", "--prefix", "Der"), ("--sampling",)])
def test_a_translator_waits_for_the_gpu_once_a_step(data, translating, tmp_path, options):
    sentences = tmp_path / "sentences.en"
    sentences.write_text("The old teacher buys a red book.\nWhen must the aunt cook a potato?\nIt is big.\n")
    vocabulary = ("--dictionaries", data, "--sentencepiece", data.parent / "sentencepiece.model")
    line = (translating[0], sentences, "-o", tmp_path / "sentences.de", "--device", "cuda", *vocabulary, *options)
    found = waits("resmlp_mt.translate", *line)
    assert found - SEARCH == Counter()


def test_a_classifier_waits_for_no_gpu_in_an_update(classifying):
    assert classifying[1] - sum([*2 * [EPOCH], *4 * [EVALUATION]], Counter()) == Counter()


def test_a_teacher_is_not_waited_for(images, classifying, tmp_path):
    line = (f"data={images}", f"out={tmp_path}", *TINY_VISION, "device=cuda", "epochs=1", "opt=muon", "accumulate=2")
    found = waits("resmlp_vision.train", *line, f"teacher={classifying[0]}")
    assert found - (TEACHER + EPOCH + EVALUATION) == Counter()


@pytest.mark.parametrize(
    ("options", "allowed"), [((), EVALUATION), (("--probe", "knn", "--train-split", "train", "--k", 3), NEIGHBOURS)]
)
def test_a_gpu_is_waited_for_when_all_images_are_seen(images, classifying, options, allowed):
    data = ("--data", images, "--split", "val", "--workers", 0, "--batch-size", 8)
    line = ("--checkpoint", classifying[0], *data, "--device", "cuda", *options)
    assert waits("resmlp_vision.evaluate", *line) - allowed == Counter()


def test_a_linear_probe_waits_for_no_gpu_in_an_update(images, classifying, tmp_path):
    data = ("--data", images, "--train-split", "train", "--split", "val", "--workers", 0, "--device", "cuda")
    line = ("--checkpoint", classifying[0], *data, "--probe", "linear", "--out", tmp_path)
    found = waits("resmlp_vision.evaluate", *line, "epochs=1", "batch_size=8")
    assert found - (EPOCH + EVALUATION) == Counter()


def test_dino_waits_for_no_gpu_in_an_update(images, tmp_path):
    line = (f"data={images}", f"out={tmp_path}", TINY_VISION[0], "img_size=16", "local_size=8", "local_views=2")
    sizes = ("out_dim=32", "hidden_dim=16", "bottleneck_dim=8", "epochs=1", "batch_size=8", "warmup_epochs=0")
    found = waits("resmlp_vision.dino", *line, *sizes, "workers=0", "device=cuda")
    assert found - sum([EPOCH, NEIGHBOURS, *3 * [CLIPPING]], Counter()) == Counter()
