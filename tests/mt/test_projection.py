"""How long a training is, and what it keeps, by the options that fairseq-train is given."""

import pytest

from resmlp_mt.data.sample import write_sample
from resmlp_mt.pipeline.projection import Length, hours_of, length_of


@pytest.mark.parametrize(
    ("options", "length"),
    [
        # the last, the best and one that is being written are kept besides
        ({"max-update": 2226, "keep-last-epochs": 1}, Length(2226, 8, 8, 4)),
        ({"max-epoch": 3}, Length(954, 4, 4, 6)),
        ({"max-epoch": 3, "max-update": 500}, Length(500, 2, 2, 4)),
        (
            {
                "max-update": 2000,
                "save-interval-updates": 100,
                "keep-interval-updates": 5,
                "no-epoch-checkpoints": True,
            },
            Length(2000, 27, 27, 8),
        ),
    ],
)
def test_what_a_training_does_on_its_way_follows_from_its_options(options, length):
    assert length_of(options, 317.4) == length


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
