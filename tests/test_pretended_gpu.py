"""What a GPU would refuse, and what it would be waited for, found on a pretended one (pretended_gpu.py)."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from integration.commands import ENVIRONMENT, PACKAGE, TINY, TRAINING

from resmlp_mt.prepare import prepare

PYTORCH = "2.15."
GRAMMAR = Path(__file__).parents[1] / "recipes" / "demo" / "grammar.py"
pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith(PYTORCH),
    reason=f"the pretended GPU replaces inner parts of PyTorch, as {PYTORCH}x has them",
)


def waits(*command: object) -> Counter[str]:
    """Run a program as on a GPU, in which no CPU tensor may meet a GPU's; return how often which function waits for it.

    Args:
        command: a module and its arguments.
    """
    line = [sys.executable, Path(__file__).with_name("pretended_gpu.py"), "-m", *command]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.stdout, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["faults"] == {}
    assert done.returncode == 0, done.stderr[-4000:]
    assert report["operations"] > 500  # else it was no GPU that computed
    return Counter(report["synchronisations"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    sizes = ["--train", "600", "--valid", "60", "--test", "60"]
    subprocess.run([sys.executable, GRAMMAR, folder / "text", *sizes], check=True)
    prepare(folder / "text", "en", "de", 300, folder / "prepared", workers=1)
    return folder / "prepared" / "data-bin"


def test_translation_never_waits_in_training_nor_in_validation(data, tmp_path):
    line = (data, "--user-dir", PACKAGE, *TINY, *TRAINING, "--max-update", 4, "--save-dir", tmp_path)
    assert waits("fairseq_cli.train", *line) == Counter()
