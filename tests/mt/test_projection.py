"""How long a training is, and what it keeps, by the options that fairseq-train is given."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from resmlp_core.common.errors import UserError
from resmlp_core.common.recipes import find_recipe
from resmlp_core.common.rehearsal import Rehearsal
from resmlp_mt.data.sample import Sample, write_sample
from resmlp_mt.pipeline import rehearsal_findings
from resmlp_mt.pipeline.projection import Length, hours_of, length_of
from resmlp_mt.pipeline.rehearsal_findings import changes_of, project
from resmlp_mt.pipeline.run import Run
from resmlp_mt.pipeline.settings import Recipe, read_recipe


@pytest.mark.parametrize(
    ("options", "updates_per_epoch", "length"),
    [
        # the last, the best and one that is being written are kept besides
        ({"max-update": 2226, "keep-last-epochs": 1}, 317.4, Length(2226, 8, 8, 4)),
        ({"max-epoch": 3}, 317.4, Length(954, 4, 4, 6)),
        ({"max-epoch": 3}, 0.4, Length(3, 4, 4, 6)),  # one update has room for the whole set
        ({"max-epoch": 3, "max-update": 500}, 317.4, Length(500, 2, 2, 4)),
        (
            {
                "max-update": 2000,
                "save-interval-updates": 100,
                "keep-interval-updates": 5,
                "no-epoch-checkpoints": True,
            },
            317.4,
            Length(2000, 27, 27, 8),
        ),
    ],
)
def test_what_a_training_does_on_its_way_follows_from_its_options(options, updates_per_epoch, length):
    assert length_of(options, updates_per_epoch) == length


@pytest.mark.parametrize("option", ["keep-interval-updates", "keep-last-epochs", "save-interval-updates"])
def test_a_count_in_quotation_marks_is_refused_before_it_is_counted_by(option):
    with pytest.raises(UserError, match=f"^train.{option}='10' must be an integer, without quotation marks$"):
        read_recipe(find_recipe("multi30k", Recipe), [f'train.{option}="10"'], None)


def test_what_grows_with_the_corpus_and_what_does_not():
    seconds = dict.fromkeys(
        ("read", "text", "vocabulary", "data-bin", "startup", "validation", "save", "score"), 3600.0
    )
    seconds |= dict.fromkeys(("average", "generate", "translate valid", "translate test"), 3600.0)
    growth = {"read": 1.0, "train": 100.0, "pairs": 50_000, "valid": 10.0, "test": 20.0, "candidates": 2}
    hours = hours_of(seconds, growth, Length(1000, 4, 5, 9), 3.6)
    assert hours == {
        "preparing": 100 + 10 + 100,  # the vocabulary is learnt from a million sentences, of 100,000 here
        "training": 1 + 1,
        "validating": 40,
        "saving": 5,
        "averaging": 2 * (1 + 10),
        "translating": 1 + 20 + 1,
    }


def test_a_sample_has_the_beginning_of_a_corpus_and_some_of_all_the_rest(tmp_path):
    (tmp_path / "all").mkdir()
    for split, number in (("train", 1000), ("valid", 50), ("test", 5)):
        for language in ("en", "de"):
            text = "".join(f"{language} {split} {i}\n" for i in range(number))
            (tmp_path / "all" / f"{split}.{language}").write_text(text)
    sample = write_sample((str(tmp_path / "all"), "en", "de"), tmp_path / "some", 100, 10, 60.0)
    numbers = [int(line.split()[-1]) for line in (tmp_path / "some" / "train.en").read_text().splitlines()]
    assert (sample.pairs, sample.read, sample.taken) == (1000, 1000, 100)
    assert numbers[:50] == list(range(50))
    assert numbers[50:] == sorted(set(numbers[50:])) and numbers[-1] > 900
    assert (tmp_path / "some" / "train.de").read_text() == "".join(f"de train {i}\n" for i in numbers)
    assert len(sample.held_out["valid"]) == 50
    assert (tmp_path / "some" / "valid.de").read_text().split("\n")[1] == "de valid 5"


def test_of_two_averages_that_were_tried_each_took_its_half(tmp_path):
    for file, text in (
        ("valid-1.log", "Translated 4 sentences in 30.0s"),
        ("valid-2.log", "Translated 4 sentences in 50.0s"),
        *(("generate.log", "Translated 4 sentences in 1.0s"), ("text/train.en", "a\n")),
        ("prepare.json", '{"text": {"valid": {"kept": 1}, "test": {"kept": 1}}}'),
        *(("data-bin/train.bin", ""), ("checkpoints/last.pt", ""), ("model.pt", "")),
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    first = {"devices": 1, "batches": 10, "tokens": 100, "startup": 1.0, "validations": [1.0], "saves": [1.0]}
    seen = {"first": first, "resumed": first}
    settings = {"train": {"max-epoch": 9}, "average": [1, 2]}
    rehearsed = SimpleNamespace(out=tmp_path, folder=tmp_path, settings=settings, seen=seen)
    rehearsed.batches_together = lambda: 1
    found = Rehearsal("demo", "start", "tokens", speed=10.0)
    sample = Sample(pairs=8, read=8, taken=8, held_out={"valid": [("a", "b")] * 3, "test": [("a", "b")]})
    took = dict.fromkeys(("text", "vocabulary", "data-bin", "generate", "score"), 1.0)
    project(found, rehearsed, sample, took | {"average": 100.0})
    assert found.hours["averaging"] == pytest.approx(2 * (10 + 3 * 40) / 3600)


@pytest.mark.parametrize(("tokens", "free"), [(8000, True), (4000, False), (1000, False), (None, False)])
def test_a_larger_batch_is_free_where_an_update_has_several(tokens, free, monkeypatch):
    """Two devices take 2,000 tokens at once."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = {"name": "demo", "pair": "en-de", "train": {"max-tokens": 2000, "lr": 0.1}, "average": [1]}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    changes = changes_of(settings | {"effective_tokens": tokens}, Rehearsal("demo", "start", "tokens"))
    assert changes.free_batch is free
    on_a_cpu = settings | {"train": settings["train"] | {"cpu": True}, "effective_tokens": tokens}
    assert not changes_of(on_a_cpu, Rehearsal("demo", "start", "tokens")).free_batch


@pytest.mark.parametrize(("given", "half"), [({"lr": "[0.1, 0.4]"}, "0.2"), ({}, "0.125"), ({"lr": None}, "0.125")])
def test_half_the_rate_is_that_of_fairseqs_own_where_a_recipe_has_none(given, half):
    train = {"max-tokens": 2000, **given}
    settings = {"name": "demo", "pair": "en-de", "train": train, "average": [1], "effective_tokens": None}
    assert changes_of(settings, Rehearsal("demo", "start", "tokens")).rate(0.5) == f"train.lr={half}"


def test_an_option_that_fairseq_will_refuse_ends_no_report():
    settings = {"name": "demo", "pair": "en-de", "average": [1], "effective_tokens": None}
    settings["train"] = {"max-tokens": 2000, "lr": 0.1, "update-freq": "many"}
    assert changes_of(settings, Rehearsal("demo", "start", "tokens")).rate(0.5) == "train.lr=0.05"


@pytest.mark.parametrize("option", ["fp16", "bf16"])
@pytest.mark.parametrize("emulated", [False, True])
def test_float32_is_advised_where_a_cpu_emulates_half_precision(option, emulated, monkeypatch):
    monkeypatch.setattr(rehearsal_findings, "emulates", lambda dtype: emulated)
    train = {"max-tokens": 2000, "lr": 0.1, option: True}
    settings = {"name": "demo", "pair": "en-de", "train": train, "average": [1], "effective_tokens": None}
    found = Rehearsal("demo", "start", "tokens")
    assert changes_of(settings, found).single == (f"train.{option}=false" if emulated else None)
    for others in ({option: False}, {option: False, "amp": True}):
        assert changes_of(settings | {"train": train | others}, found).single is None


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("multi30k", ()),
        ("wmt14_en_de", ()),
        ("software", ()),
        ("software", ("train.update-freq=3",)),
        *((recipe, ("train.update-freq=null",)) for recipe in ("software", "wmt14_en_de")),
    ],
)
def test_smaller_batches_are_advised_with_as_many_tokens_in_an_update(recipe, more, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def tokens_of(*overrides):
        settings = read_recipe(find_recipe(recipe, Recipe), [*more, *overrides], None)
        options = Run(settings, Path()).train_options()
        return settings, options["max-tokens"], options["max-tokens"] * (options.get("update-freq") or 1)

    settings, batch, update = tokens_of()
    advised = changes_of(settings, Rehearsal("demo", "start", "tokens", batch=batch)).batch(900)
    _, smaller, same = tokens_of(*advised.split())
    assert smaller <= 900 and same == pytest.approx(update, rel=0.001)
