"""fairseq-generate: its scores and alignments are the model's, and its options do what they say."""

import inspect
import re
import shutil
from collections import Counter

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq import options as fairseq_options
from fairseq.sequence_generator import SequenceGenerator

from resmlp_core.common.errors import UserError
from resmlp_mt.data.generate_output import best_hypotheses

from .commands import PLUGIN, TRAINING, in_this_process, printed, run, texts

BEAM = ("--beam", 4, "--max-len-b", 30)


@pytest.fixture(scope="module")
def generate(trained):
    """Translate raw text in this process."""
    always = ("--dataset-impl", "raw", "--num-workers", 0, *BEAM)

    def generate(data, *options, path=trained.last):
        return in_this_process("generate", data, *PLUGIN, *always, "--path", path, *options)

    return generate


@pytest.fixture(scope="module")
def beam_search(trained, corpus):
    """What the command prints by default: the source is padded on the left."""
    options = ("--dataset-impl", "raw", "--path", trained.last, "--nbest", 2, "--print-alignment", "--batch-size", 16)
    return run("fairseq_cli.generate", corpus.raw, *PLUGIN, *BEAM, *options)


def teacher_forced(paths, source, target):
    """Score a target in one pass, alone and without padding: bits a token, and the word most attended to at each."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path) for path in paths])
    src = task.source_dictionary.encode_line(source, add_if_not_exist=False).long()
    tgt = task.target_dictionary.encode_line(target, add_if_not_exist=False).long()
    probabilities, attention = 0, 0
    for model in models:
        with torch.no_grad():
            logits, extra = model.eval()(src[None], None, tgt.roll(1)[None])
        probabilities += logits[0].softmax(-1)[range(len(tgt)), tgt] / len(models)
        attention += extra["attn"][0][0]
    return probabilities.log2(), attention[:-1, :-1].argmax(-1)


def numbers(line):
    return torch.tensor([float(number) for number in line.split()])


def test_every_sentence_has_its_n_best_hypotheses_with_the_models_own_scores_and_alignments(
    beam_search, corpus, trained
):
    hypotheses, positional = printed(beam_search, "H"), printed(beam_search, "P")
    sources, alignments = texts(beam_search, "S"), printed(beam_search, "A")
    assert [sources[i] for i in range(60)] == corpus.encode(corpus.text("test.en"))
    assert {len(best) for best in hypotheses.values()} == {2}
    assert len({line for best in hypotheses.values() for _, line in best}) > 20  # the model does look at the source
    for i in range(0, 60, 4):
        scores = [float(score) for score, _ in hypotheses[i]]
        assert scores[0] >= scores[1]
        for (score, text), (bits,), (pairs,) in zip(hypotheses[i], positional[i], alignments[i], strict=True):
            expected, most_attended = teacher_forced([trained.last], sources[i], text)
            torch.testing.assert_close(numbers(bits), expected, rtol=0, atol=1e-3)
            assert float(score) == pytest.approx(expected.mean().item(), abs=1e-3)
            assert pairs.split() == [f"{source}-{target}" for target, source in enumerate(most_attended.tolist())]


@pytest.mark.parametrize("options", [("--left-pad-source", "--batch-size", 16), ("--batch-size", 1)])
def test_neither_padding_nor_batch_changes_hypotheses_or_alignments(beam_search, corpus, generate, options):
    """On fairseq's command line ``--left-pad-source`` turns left padding off."""
    output = generate(corpus.raw, "--nbest", 2, "--print-alignment", *options)
    assert printed(output, "A") == printed(beam_search, "A")
    for i, best in printed(beam_search, "H").items():
        for (score, text), (other_score, other_text) in zip(best, printed(output, "H")[i], strict=True):
            assert text == other_text
            assert float(score) == pytest.approx(float(other_score), abs=1e-4)


@pytest.mark.parametrize("padding", [(), ("--left-pad-source",)])
def test_an_unknown_word_is_replaced_by_the_source_word_it_is_aligned_with(corpus, generate, tmp_path, padding):
    options = ("--unkpen", -6, "--print-alignment", *padding)
    before = generate(corpus.raw, *options)
    unknown = {}  # the source piece that each unknown word is aligned with, by sentence and place
    for i, text in texts(before).items():
        words, source = text.split(), texts(before, "S")[i].split()
        pairs = (map(int, pair.split("-")) for pair in printed(before, "A")[i][0][0].split())
        unknown |= {(i, place): source[at] for at, place in pairs if words[place] == "<unk>"}
    (known, _), *others = Counter(unknown.values()).most_common()
    assert len(others) > 5
    (tmp_path / "lexicon").write_text(f"{known} DER\n", encoding="utf-8")
    replacing = (*options, "--replace-unk", tmp_path / "lexicon")
    after, joined = (texts(generate(corpus.raw, *replacing, *more)) for more in ((), ("--remove-bpe", "sentencepiece")))
    for i, text in texts(before).items():
        words = text.split()
        for place, word in enumerate(words):
            if word == "<unk>":
                words[place] = "DER" if unknown[i, place] == known else unknown[i, place]
        assert after[i].split() == words
        assert joined[i] == "".join(words).replace("▁", " ").strip()


def test_where_there_is_no_source_word_an_unknown_word_stays(corpus, generate, tmp_path):
    empty = corpus.write_raw(tmp_path / "raw", [""], ["▁die"])
    (words,) = texts(generate(empty, "--unkpen", -20, "--print-alignment", "--replace-unk", "/dev/null")).values()
    assert set(words.split()) == {"<unk>"}
    for alignment in ((), ("--print-alignment", "soft")):
        with pytest.raises(ValueError, match="--replace-unk needs --print-alignment hard"):
            generate(corpus.raw, "--unkpen", -20, "--replace-unk", "/dev/null", *alignment)
    joined = ("--bpe", "sentencepiece", "--sentencepiece-model", corpus.sentencepiece)
    with pytest.raises(ValueError, match="--replace-unk needs the source in pieces: leave --bpe out"):
        generate(corpus.raw, "--print-alignment", "--replace-unk", "/dev/null", *joined)


def test_a_language_model_of_the_same_dictionary_joins_in_the_scores(corpus, trained, tmp_path):
    data = shutil.copytree(corpus.data, tmp_path / "data")
    shutil.copy(data / "dict.de.txt", data / "dict.txt")
    for kind in ("bin", "idx"):
        shutil.copy(data / f"train.en-de.de.{kind}", data / f"train.{kind}")
    lm = (
        *("--task", "language_modeling", "--sample-break-mode", "eos", "--tokens-per-sample", 100),
        *("--criterion", "cross_entropy", "--arch", "resmlp_lm_tiny", "--decoder-layers", 1, "--disable-validation"),
    )
    in_this_process("train", data, *PLUGIN, *TRAINING, *lm, "--max-update", 5, "--save-dir", tmp_path / "lm")
    line = (data, *PLUGIN, "--path", trained.last, *BEAM, "--num-workers", 0)
    model = ("--lm-path", tmp_path / "lm" / "checkpoint_last.pt", "--lm-weight", 0.3)
    joined = in_this_process("generate", *line, *model)
    assert printed(joined, "H").keys() == set(range(60))
    assert printed(joined, "H") != printed(in_this_process("generate", *line), "H")


def test_soft_alignments_are_probabilities_over_the_source_alone(corpus, generate):
    output = generate(corpus.raw, "--print-alignment", "soft", "--batch-size", 16)
    for i, ((rows,),) in printed(output, "A").items():
        table = [[float(number) for number in row.split(",")] for row in rows.split()]
        assert {len(row) for row in table} == {len(texts(output, "S")[i].split()) + 1}
        assert [sum(row) for row in table] == pytest.approx([1.0] * len(table), abs=1e-3)


def test_sampling_is_repeatable_by_its_seed(corpus, generate):
    def sample(seed):
        return texts(generate(corpus.raw, "--sampling", "--sampling-topk", 20, "--beam", 1, "--seed", seed))

    assert sample(1) == sample(1) != sample(2)


def test_hypotheses_begin_with_the_prefix_of_the_reference(corpus, generate):
    def beginnings(output, kind):
        return [texts(output, kind)[i].split()[:1] for i in range(60)]

    free, forced = generate(corpus.raw), generate(corpus.raw, "--prefix-size", 1)
    assert beginnings(forced, "H") == beginnings(forced, "T")
    assert beginnings(free, "H") != beginnings(free, "T")


def test_an_ensemble_averages_the_probabilities_of_its_models(corpus, generate, trained):
    paths = (trained.earlier, trained.last)
    output = generate(corpus.raw, path=":".join(map(str, paths)))
    for i in range(0, 60, 12):
        expected, _ = teacher_forced(paths, texts(output, "S")[i], texts(output)[i])
        torch.testing.assert_close(numbers(printed(output, "P")[i][0][0]), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_sentence_of_more_tokens_than_positions_is_refused_or_skipped(corpus, generate, tmp_path, side):
    def pairs(length):  # fairseq counts the end of the sentence
        line = " ".join(["▁the"] * (length - 1))
        return (line, "▁die") if side == "source" else ("▁the", line)

    longest, too_long = pairs(100), pairs(101)
    data = corpus.write_raw(tmp_path / "raw", *zip(too_long, longest, strict=True))
    with pytest.raises(Exception, match=r"Size of sample #0 is invalid .*\b101\b.* since max_positions=\(100, 100\)"):
        generate(data)
    output = generate(data, "--skip-invalid-size-inputs-valid-test")
    assert texts(output, "S") == {1: longest[0]}
    assert len(texts(output)) == 1


def test_decoding_stops_where_the_matrix_ends(corpus, generate):
    output = generate(corpus.raw, "--min-len", 99, "--max-len-b", 200, "--beam", 2)
    assert {len(text.split()) for text in texts(output).values()} == {99}
    assert all(re.fullmatch(r"(-[\d.]+ ){99}-[\d.]+", lines[0][0]) for lines in printed(output, "P").values())


@pytest.mark.parametrize("options", [(), ("--prefix-size", 1), ("--diversity-rate", 0.3, "--diverse-beam-groups", -1)])
def test_diverse_hypotheses_do_not_depend_on_the_batch(corpus, generate, tmp_path, options):
    """Sentences are sorted by length: most of them stand at other places in a batch than in the corpus."""
    sides = (corpus.encode(corpus.text(f"test.{language}")[:20]) for language in ("en", "de"))
    few = corpus.write_raw(tmp_path / "raw", *sides)
    diverse = ("--diverse-beam-groups", 2, "--diverse-beam-strength", 2, "--nbest", 4, *options)
    batched = printed(generate(few, *diverse, "--batch-size", 8), "H")
    alone = printed(generate(few, *diverse, "--batch-size", 1), "H")
    assert [[text for _, text in batched[i]] for i in range(20)] == [[text for _, text in alone[i]] for i in range(20)]
    usual = printed(generate(few, "--nbest", 4), "H")
    assert sum(batched[i] != usual[i] for i in range(20)) > 10


def test_fairseq_itself_still_looks_for_diverse_groups_by_sentence(corpus, generate, monkeypatch):
    monkeypatch.setattr(SequenceGenerator, "_generate", SequenceGenerator._generate.__wrapped__)
    with pytest.raises(IndexError):
        generate(corpus.raw, "--diverse-beam-groups", 2, "--batch-size", 16)


def test_shards_part_the_test_set_and_together_are_the_whole(corpus, generate, tmp_path):
    always = (corpus.raw, "--batch-size", 8, "--remove-bpe", "sentencepiece")
    whole = generate(*always)
    shards = [generate(*always, "--num-shards", 3, "--shard-id", i) for i in range(3)]
    assert all(0 < len(texts(shard)) < 30 for shard in shards)
    assert sorted(i for shard in shards for i in texts(shard)) == list(range(60))
    assert texts("".join(shards)) == texts(whole)
    (tmp_path / "joined").write_text("".join(shards), encoding="utf-8")
    (tmp_path / "twice").write_text(shards[0] + whole, encoding="utf-8")
    assert len(best_hypotheses(tmp_path / "joined")) == 60
    with pytest.raises(UserError, match=r"twice has sentence \d+ twice: it is of several outputs"):
        best_hypotheses(tmp_path / "twice")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--constraints", "--constraints is for fairseq-interactive"),
        ("--print-step", "--print-step is for models that refine a translation step by step"),
        ("--retain-iter-history", "--retain-iter-history is for models that refine"),
    ],
)
def test_what_fairseq_fails_at_with_any_such_model_is_refused_in_one_line(
    corpus, generate, option, message, capsys, monkeypatch
):
    with pytest.raises(SystemExit):
        generate(corpus.raw, option)
    assert message in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr(fairseq_options, "parse_args_and_arch", inspect.unwrap(fairseq_options.parse_args_and_arch))
    with pytest.raises((TypeError, KeyError)):  # fairseq itself still does
        generate(corpus.raw, option)


@pytest.mark.parametrize("shard", [3, -1])
def test_a_shard_that_there_is_not_is_refused(corpus, generate, shard, capsys):
    with pytest.raises(SystemExit):
        generate(corpus.raw, "--num-shards", 3, "--shard-id", shard)
    assert f"--shard-id {shard} must be from 0 to 2" in capsys.readouterr().err.splitlines()[-1]


def test_fairseq_itself_still_translates_all_in_every_shard(corpus, generate, monkeypatch):
    monkeypatch.setattr(fairseq_options, "parse_args_and_arch", inspect.unwrap(fairseq_options.parse_args_and_arch))
    assert len(texts(generate(corpus.raw, "--num-shards", 2, "--shard-id", 1))) == 60


def test_colons_in_folders_part_no_path(corpus, generate, trained, tmp_path):
    data, models = tmp_path / "10:30" / "raw", tmp_path / "11:00"
    shutil.copytree(corpus.raw, data)
    models.mkdir()
    for path in (trained.earlier, trained.last):
        shutil.copy(path, models)
    both = [f"{folder / trained.earlier.name}:{folder / trained.last.name}" for folder in (models, trained.folder)]
    assert texts(generate(data, path=both[0])) == texts(generate(corpus.raw, path=both[1]))
