"""From Python and from the terminal a checkpoint translates as by fairseq, and so does an average of checkpoints."""

import shutil
import subprocess
import sys
from unittest import mock

import pytest
from fairseq import hub_utils

from resmlp_mt import ResMLPModel, average, translate

from .commands import ENVIRONMENT, PLUGIN, in_this_process, texts


@pytest.fixture(scope="module")
def averaged(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("averaged") / "model.pt"
    with mock.patch("sys.argv", ["average", *map(str, (trained.earlier, trained.last)), "--output", str(path)]):
        average.main()
    return path


@pytest.mark.parametrize("which", ["last", "average"])
def test_a_checkpoint_translates_from_python_as_on_the_command_line(trained, averaged, corpus, tmp_path, which):
    path = trained.last if which == "last" else averaged
    sentences = [*corpus.text("test.en")[:8], "My 😀 uncle slept."]
    pieces = {"bpe": "sentencepiece", "sentencepiece_model": str(corpus.sentencepiece)}
    model = ResMLPModel.from_pretrained(
        str(path.parent), checkpoint_file=path.name, data_name_or_path=str(corpus.data), **pieces
    )
    (tmp_path / "input").write_text("".join(f"{line}\n" for line in sentences), encoding="utf-8")
    options = ("--path", path, "--input", tmp_path / "input", "--bpe", "sentencepiece", "--beam", 5)
    output = in_this_process(
        "interactive", corpus.data, *PLUGIN, *options, "--sentencepiece-model", corpus.sentencepiece
    )
    expected = list(texts(output, "D").values())
    assert len(set(expected)) > 3
    assert model.translate(sentences) == [model.translate(sentence) for sentence in sentences] == expected


def test_names_with_colons_are_names(trained, corpus, tmp_path):
    shutil.copy(trained.last, tmp_path / "12:00.pt")
    shutil.copytree(corpus.data, tmp_path / "10:30" / "data-bin")
    shutil.copy(corpus.sentencepiece, tmp_path / "10:30")
    hubs = [
        ResMLPModel.from_pretrained(
            str(model.parent),
            checkpoint_file=model.name,
            data_name_or_path=str(data / "data-bin"),
            bpe="sentencepiece",
            sentencepiece_model=str(data / "sentencepiece.model"),
        )
        for model, data in ((tmp_path / "12:00.pt", tmp_path / "10:30"), (trained.last, corpus.folder))
    ]
    for sentence in corpus.text("test.en")[:3]:
        assert hubs[0].translate(sentence) == hubs[1].translate(sentence)


def test_fairseq_itself_still_parts_a_checkpoints_name(trained, corpus, tmp_path):
    shutil.copy(trained.last, tmp_path / "12:00.pt")
    with pytest.raises(OSError, match="12"):
        hub_utils.from_pretrained.__wrapped__(str(tmp_path), "12:00.pt", str(corpus.data))


WITHOUT_TEXT = ["", " ", "\ufeff", "\u200b", "\x7f", "\x01", "\ufffd", "\u00ad", "\u2581"]


def test_what_has_no_text_is_answered_with_nothing_and_changes_nothing_beside_it(trained, corpus):
    pieces = {"bpe": "sentencepiece", "sentencepiece_model": str(corpus.sentencepiece)}
    model = ResMLPModel.from_pretrained(
        str(trained.folder), checkpoint_file=trained.last.name, data_name_or_path=str(corpus.data), **pieces
    )
    first, second = corpus.text("test.en")[:2]
    expected = [model.translate(first), model.translate(second)]
    assert all(expected)
    assert model.translate([*WITHOUT_TEXT, first, *WITHOUT_TEXT, second]) == [
        *([""] * len(WITHOUT_TEXT)),
        expected[0],
        *([""] * len(WITHOUT_TEXT)),
        expected[1],
    ]
    assert model.translate("\u200b") == model.translate(WITHOUT_TEXT)[0] == ""
    assert model.translate(f"\ufeff{first}") == expected[0]
    long = "red " * 100
    assert model.translate(["", long, first], skip_invalid_size_inputs=True) == ["", expected[0]]
    (nothing,) = model.generate(model.encode("\u200b"))
    assert nothing["tokens"].tolist() == [model.tgt_dict.eos()] and nothing["score"] == 0


def test_what_is_typed_is_translated_as_by_fairseq_interactive(trained, corpus, tmp_path):
    """From within the model's folder too; and a sentence that is too long for fairseq."""
    (tmp_path / "run").mkdir()
    shutil.copy(trained.last, tmp_path / "run" / "model.pt")
    for name in ("data-bin", "sentencepiece.model"):
        (tmp_path / name).symlink_to(corpus.folder / name)
    sentences = corpus.text("test.en")[:3]
    (tmp_path / "input").write_text("".join(f"{line}\n" for line in sentences), encoding="utf-8")
    options = ("--path", trained.last, "--input", tmp_path / "input", "--bpe", "sentencepiece", "--beam", 4)
    output = in_this_process(
        "interactive", corpus.data, *PLUGIN, *options, "--sentencepiece-model", corpus.sentencepiece
    )
    command = [sys.executable, "-m", "resmlp_mt.translate"]
    typed = "".join(f"{line}\n" for line in ["red " * 100, *WITHOUT_TEXT, *sentences])
    pipes = {"input": typed, "env": ENVIRONMENT, "capture_output": True, "text": True}
    done = subprocess.run([*command, "."], cwd=tmp_path / "run", **pipes)
    long, *others = done.stdout.splitlines()
    assert long
    assert others == [*([""] * len(WITHOUT_TEXT)), *texts(output, "D").values()]
    (report,) = done.stderr.splitlines()
    assert report.startswith(f"translate: {len(typed.splitlines())} sentences in ")


def test_a_recipe_that_has_not_come_that_far_is_told_in_one_line(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        translate.main([str(tmp_path)])
    hint = "run the recipe to its end, or name a checkpoint"
    names = "model.safetensors, model.pt or last.pth.tar"
    assert stopped.value.code == f"translate: no {names} in {tmp_path}: {hint}"
