"""Translating without fairseq: the same hypotheses as fairseq-generate's, whatever is translated beside them."""

import argparse
import io
import re
import subprocess
import sys
import threading
from dataclasses import replace
from functools import cache

import numpy as np
import onnxruntime
import pytest
import sentencepiece
import torch
from fairseq.sequence_generator import SequenceGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from resmlp_core.common.errors import UserError
from resmlp_mt import export, load_translator
from resmlp_mt.translation import translator as module
from resmlp_mt.translation.hypothesis import Hypothesis, join
from resmlp_mt.translation.loading import read_trained
from resmlp_mt.translation.long_sentences import split_long
from resmlp_mt.translation.network import Network
from resmlp_mt.translation.onnx_graphs import write_onnx
from resmlp_mt.translation.products import IS_FAST
from resmlp_mt.translation.search import SearchOptions, run, search
from resmlp_mt.translation.translator import pad

from ..conftest import SMALL, collate, every_variant, largest_file, make_dictionary, make_model, small_model, variant

DICTIONARY = make_dictionary()
EOS, PAD = DICTIONARY.eos(), DICTIONARY.pad()
OPTIONS = {"heads": 2, "activation": "gelu", "scale_embedding": True}
TEXT = "a red dog sees the small cat . the cat , which is small , runs to a big old house .".split()  # noqa: SIM905


@cache
def network(name):
    return Network(variant(name).state_dict(), OPTIONS).prepare()


def by_fairseq(model, sentences, beam, prefixes=None, **options):
    tokens = collate(sentences, left_pad=True)
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": tokens.ne(PAD).sum(1)}}
    generator = SequenceGenerator([model], DICTIONARY, beam_size=beam, **options)
    prefix_tokens = None if prefixes is None else torch.tensor(prefixes)
    found = generator.generate([model], sample, prefix_tokens=prefix_tokens)
    return [[(one["tokens"].tolist(), float(one["score"])) for one in sentence] for sentence in found]


def ours(name, sentences, *args, prefixes=None, **options):
    found = search(network(name), pad(sentences), SearchOptions(*args, **options), prefixes)
    return [[(one.tokens, one.score) for one in sentence] for sentence in found]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert [tokens for tokens, _ in one] == [tokens for tokens, _ in other]
        assert [score for _, score in one] == pytest.approx([score for _, score in other], rel=1e-4, abs=1e-4)


words = st.integers(4, 43)
sentence = st.lists(words, min_size=1, max_size=10).map(lambda tokens: [*tokens, EOS])


@every_variant
@settings(max_examples=25)
@given(
    sentences=st.lists(sentence, min_size=1, max_size=5),
    beam=st.integers(1, 6),
    lenpen=st.sampled_from([0.6, 1.0, 1.4]),
    min_len=st.integers(1, 5),
    max_len=st.sampled_from([7, 11, 200]),
    prefix=st.lists(words, max_size=3),
)
def test_hypotheses_and_scores_are_fairseqs(name, sentences, beam, lenpen, min_len, max_len, prefix):
    prefixes = [prefix] * len(sentences) if prefix else None
    limits = {"min_len": min_len, "max_len_b": max_len, "len_penalty": lenpen}
    expected = by_fairseq(variant(name), sentences, beam, prefixes, **limits)
    assert_same(ours(name, sentences, beam, lenpen, min_len, 0.0, max_len, prefixes=prefixes), expected)


@every_variant
@settings(max_examples=15)
@given(st.lists(sentence, min_size=2, max_size=6), st.integers(1, 4), st.booleans(), st.randoms())
def test_a_sentence_has_the_same_hypotheses_in_any_batch_and_order(name, sentences, beam, sampling, random):
    options = {"beam": beam, "max_len_a": 0.5, "max_len_b": 3, "sampling": sampling}
    single = [ours(name, [one], **options)[0] for one in sentences]
    order = random.sample(range(len(sentences)), len(sentences))
    assert_same(ours(name, [sentences[i] for i in order], **options), [single[i] for i in order])


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        ({"share_all_embeddings": True}, {}),
        ({"share_decoder_input_output_embed": True, "no_scale_embedding": True}, {"scale_embedding": False}),
        ({"activation_fn": "relu", "encoder_layers": 1, "decoder_layers": 3}, {"activation": "relu"}),
        ({"decoder_embed_dim": 24, "decoder_ffn_embed_dim": 48}, {}),
    ],
)
def test_models_of_other_forms(model, changed):
    trained = small_model(**model)
    sentences = [[5, 6, 7, EOS], [8, EOS], [*range(10, 20), EOS]]
    found = search(Network(trained.state_dict(), OPTIONS | changed).prepare(), pad(sentences), SearchOptions(3))
    assert_same([[(h.tokens, h.score) for h in one] for one in found], by_fairseq(trained, sentences, 3))


def test_long_translations_have_room():
    trained = small_model(max_target_positions=90, position_convolution=3)
    sentences = [[5, 6, 7, EOS], [8, EOS]]
    found = search(Network(trained.state_dict(), OPTIONS).prepare(), pad(sentences), SearchOptions(3, min_len=70))
    assert_same([[(h.tokens, h.score) for h in one] for one in found], by_fairseq(trained, sentences, 3, min_len=70))


def test_samples_are_drawn_by_their_probability():
    """The first token of many samples, drawn with other seeds, beside the probabilities that fairseq's model gives."""
    model, source = variant("paper"), torch.tensor([[5, 6, EOS]])
    with torch.no_grad():
        logits = model(source, None, torch.tensor([[EOS]]))[0][0, 0]
    probabilities = logits.softmax(-1).index_fill(0, torch.tensor([EOS, PAD]), 0)  # one token at least, no padding
    counts = torch.zeros(len(DICTIONARY))
    for seed in range(50):
        for tokens, _ in ours("paper", source.tolist(), 40, sampling=True, seed=seed, max_len_b=1)[0]:
            counts[tokens[0]] += 1
    expected = probabilities / probabilities.sum() * 2000
    assert (counts - expected).abs().lt(5 * expected.sqrt() + 3).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as a recipe leaves it: a model of random weights, its vocabulary and dictionaries."""
    out = tmp_path_factory.mktemp("recipe")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(TEXT)] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=44,
        **{"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "minloglevel": 2},
    )
    (out / "sentencepiece.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    symbols = [processor.id_to_piece(i) for i in range(4, 44)]
    for name in ("data-bin", "run"):
        (out / name).mkdir()
    for language in ("en", "de"):
        (out / "data-bin" / f"dict.{language}.txt").write_text("".join(f"{piece} 1\n" for piece in symbols), "utf-8")
    (out / "data-bin" / "train.en-de.en.idx").touch()
    write_model(out / "run" / "model.pt")
    (out / "run" / "settings.json").write_text("{}")  # the recipe's, whatever is in it
    return out / "run"


def write_model(path, lang_pairs=None, **options):
    trained = make_model(**{**SMALL, "max_source_positions": 40, "max_target_positions": 40, **options})
    weights = {name: weight for name, weight in trained.state_dict().items() if "vocabulary" not in name}
    options = argparse.Namespace(arch="resmlp", decoder_attention_heads=2, activation_fn="gelu")
    task = argparse.Namespace(source_lang=None, target_lang=None, data="gone", lang_pairs=lang_pairs)
    torch.save({"cfg": {"model": options, "task": task}, "model": weights}, path)


def test_one_sentence_a_list_and_a_stream(folder):
    translator = load_translator(folder)
    sentences = ["a red dog", "", "the cat runs to a house .", "\u200b", "a", "\0"]
    texts = translator.translate(sentences, beam=3)
    assert translator.translate(sentences[2], beam=3) == texts[2]
    assert [texts[i] for i in (1, 3, 5)] == ["", "", ""]
    details = translator.translate(sentences, details=True, beam=3, nbest=3)
    assert [one[0].text for one in details] == texts
    assert [len(one) for one in details] == [3, 1, 3, 1, 3, 1]
    best = details[2][0]
    assert best.score < 0 and [of for of, _ in best.alignment] == list(range(len(best.text.split())))
    assert all(to < 7 for _, to in best.alignment)
    small = list(translator.stream(iter(sentences), beam=3, batch_size=2, max_tokens=9))
    assert [one[0].text for one in small] == texts


def test_a_stream_gives_what_it_can_before_all_is_read(folder):
    def endless():
        while True:
            yield "a dog"

    stream = load_translator(folder).stream(endless(), beam=1)
    assert next(stream)[0].text == next(stream)[0].text


def test_a_translation_is_given_while_shorter_sentences_behind_it_wait(folder, monkeypatch):
    batches = []
    monkeypatch.setattr(module, "search", lambda *args: batches.append(args) or search(*args))
    stream = load_translator(folder).stream(["a red dog sees the cat", "", "the cat", "a"], beam=1, batch_size=1)
    made = [(next(stream)[0].text != "", len(batches)) for _ in range(4)]
    assert made == [(True, 1), (False, 1), (True, 2), (True, 3)]


def test_a_wide_beam_takes_fewer_sentences_at_once_and_each_batch_is_told(folder, monkeypatch):
    batches, told = [], []
    monkeypatch.setattr(module, "search", lambda *args: batches.append(len(args[1])) or search(*args))
    translator = load_translator(folder)
    texts = translator.translate(["a red dog"] * 7, beam=20, max_tokens=60, on_batch=told.append)
    assert batches == told == [3, 3, 1]
    assert texts == translator.translate(["a red dog"] * 7, beam=20)
    assert batches[3:] == [7]


def test_a_prefix_begins_its_translation(folder):
    texts = load_translator(folder).translate(["a red dog", "the cat"], prefix=["the house", ""])
    assert texts[0].startswith("the house")
    assert texts[1] == load_translator(folder).translate("the cat")


def test_five_thousand_words_are_translated_in_pieces_that_fit(folder):
    translator = load_translator(folder)
    line = " ".join(TEXT * 250)
    pieces = translator.split(line)
    assert " ".join(pieces) == line and len(pieces) > 100
    assert all(len(translator.vocabulary.encode(piece)) <= 40 for piece in pieces)
    ((whole,),) = translator.translate([line], details=True, beam=1)
    assert whole.text == " ".join(text for text in translator.translate(pieces, beam=1) if text)
    assert max(to for _, to in whole.alignment) > 4000


@settings(max_examples=50)
@given(st.text(alphabet="ab ,.。", max_size=60).map(str.strip), st.integers(2, 9))
def test_splitting_loses_nothing_and_fits(text, limit):
    pieces = split_long(text, lambda piece: len(piece) + 1, limit)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert all(len(piece) + 1 <= limit for piece in pieces)


def test_long_sentences_are_split_at_clause_marks_before_spaces():
    text = "when it rains all day, the old dogs of the house sleep"
    assert split_long(text, len, 40) == ["when it rains all day,", "the old dogs of the house sleep"]


@pytest.mark.parametrize(
    ("pieces", "line", "texts", "whole", "alignment"),
    [
        (["So,", "we wait."], "So, we wait.", ["那么，", "我们 等。"], "那么，我们 等。", [(0, 0), (0, 1), (1, 2)]),
        (["那么，", "我们 等。"], "那么，我们 等。", ["So,", "we wait."], "So, we wait.", [(0, 0), (1, 0), (2, 1)]),
        (["So,", "we wait."], "So, we wait.", ["Also", "warten wir."], "Also warten wir.", [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_pieces_are_joined_as_their_script_is_written_and_words_stay_aligned(pieces, line, texts, whole, alignment):
    pairs = [((0, 0),), ((0, 0), (1, 1))]
    parts = [[Hypothesis(text, -1.0, ("a",), aligned)] for text, aligned in zip(texts, pairs, strict=True)]
    (found,) = join(parts, pieces, line, 1.0)
    assert (found.text, list(found.alignment)) == (whole, alignment)


def test_threads_share_a_translator(folder):
    translator = load_translator(folder)
    sentences = [" ".join(TEXT[i : i + 5]) for i in range(12)]
    expected = translator.translate(sentences)
    found = {}

    def work(number):
        found[number] = translator.translate(sentences)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [expected] * 3


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda out: (out / "run" / "model.pt").unlink(), "no .*model.pt or .* in .*: run the recipe to its end"),
        (lambda out: (out / "run" / "model.pt").write_text("text"), "model.pt is not a file of weights"),
        (lambda out: (out / "sentencepiece.model").unlink(), "no sentencepiece.model in .* name it by --sentencepiece"),
        (lambda out: (out / "sentencepiece.model").write_text("text"), "sentencepiece.model: .* not one"),
        (
            lambda out: (out / "data-bin" / "dict.de.txt").write_text("a 1\n"),
            "dictionaries are not those",
        ),
        (lambda out: (out / "data-bin" / "dict.de.txt").write_text("a\n"), "dict.de.txt, line 1"),
        (lambda out: write_model(out / "run" / "model.pt", adaptive_softmax_cutoff="10,20"), "not those of a ResMLP"),
        (lambda out: write_model(out / "run" / "model.pt", no_cross_attention=True), "not those of a ResMLP"),
        (lambda out: write_model(out / "run" / "model.pt", lang_pairs=["en-de"]), "translate with fairseq-generate"),
    ],
)
def test_what_cannot_be_loaded_is_named(folder, tmp_path, break_it, message):
    subprocess.run(["cp", "-r", f"{folder.parent}/.", tmp_path], check=True)
    break_it(tmp_path)
    with pytest.raises(UserError) as error:
        load_translator(tmp_path / "run")
    told = str(error.value).replace(str(tmp_path), "")
    assert re.search(message, told) and "\n" not in told and len(told) < 300


def test_a_folder_of_models_names_those_in_it(folder):
    with pytest.raises(UserError, match=f" in {folder.parent}: name {folder}$"):
        load_translator(folder.parent)


@pytest.mark.parametrize("tied", [True, False])
def test_an_exported_folder_needs_no_fairseq(folder, tmp_path, monkeypatch, capsys, tied):
    """It is read in a process of its own, where importing fairseq and what else may not be needed fails."""
    checkpoint = tmp_path / "checkpoint.pt"
    write_model(checkpoint, share_all_embeddings=tied)
    near = ("--sentencepiece", folder.parent / "sentencepiece.model", "--dictionaries", folder.parent / "data-bin")
    monkeypatch.setattr("sys.argv", [str(word) for word in ("export", checkpoint, "-o", tmp_path / "out", *near)])
    export.main()
    assert "MB of weights" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists: remove it, or name another folder"):
        export.main()
    matrices = load_file(tmp_path / "out" / "model.safetensors")
    assert ("decoder.output_projection.weight" in matrices) == (not tied)
    unneeded = ("fairseq", "omegaconf", "sacrebleu", "tqdm", "datasets", "yaml", "onnx", "onnxruntime")
    hidden = f"sys.modules.update(dict.fromkeys({unneeded}))"
    line = f"import sys; {hidden}; from resmlp_mt import load_translator as load; "
    line += f"print(load({str(tmp_path / 'out')!r}).translate('a red dog'))"
    done = subprocess.run([sys.executable, "-c", line], check=True, capture_output=True, encoding="utf-8")
    translator = load_translator(checkpoint, sentencepiece=near[1], dictionaries=near[3])
    assert done.stdout.strip() == translator.translate("a red dog")


def test_what_was_exported_can_be_exported_again(folder, tmp_path):
    """Also where the two embeddings are one matrix and the output's is another."""
    trained = read_trained(folder)
    embeddings = trained.weights["encoder.embed_tokens.weight"]
    others = {"decoder.embed_tokens.weight": embeddings, "decoder.output_projection.weight": embeddings + 1}
    export.export(replace(trained, weights={**trained.weights, **others}), tmp_path / "first")
    export.export(read_trained(tmp_path / "first"), tmp_path / "second")
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_links_to_an_exported_folders_files_are_as_good_as_the_folder(folder, tmp_path):
    """As ``huggingface_hub.snapshot_download`` leaves them: links to files that are named by their content."""
    export.export(read_trained(folder), tmp_path / "out")
    for part in ("blobs", "snapshot"):
        (tmp_path / part).mkdir()
    for number, path in enumerate((tmp_path / "out").iterdir()):
        (tmp_path / "snapshot" / path.name).symlink_to(path.rename(tmp_path / "blobs" / str(number)))
    assert load_translator(tmp_path / "snapshot").translate("a red dog") == load_translator(folder).translate(
        "a red dog"
    )


def test_an_exported_folder_can_be_read_by_others_and_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["export", str(folder), "-o", str(tmp_path / "out")])
    with largest_file(20_000), pytest.raises(SystemExit, match=f"^export: {tmp_path}/out: the disk is full: File too"):
        export.main()
    assert not list(tmp_path.iterdir())
    export.main()
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_products_are_near_those_of_float32(folder, dtype, recwarn):
    exact, narrow = (load_translator(folder, "cpu", dtype) for dtype in ("float32", dtype))
    if recwarn:
        pytest.skip(str(recwarn[0].message))
    with torch.inference_mode():
        tokens = pad([[*range(4, 24), EOS]])
        expected, found = (torch.stack(one.network.read(tokens)[1]) for one in (exact, narrow))
    assert 1e-5 < (found - expected).norm() / expected.norm() < 0.05
    assert narrow.translate("a red dog") and narrow.translate("") == ""


def test_a_processor_without_the_instructions_computes_in_float32_and_says_so(folder, monkeypatch):
    monkeypatch.setitem(IS_FAST, "int8", lambda: False)
    with pytest.warns(UserWarning, match="no instructions for int8: computing in float32"):
        translator = load_translator(folder, dtype="int8")
    assert translator.translate("a red dog") == load_translator(folder).translate("a red dog")
    with pytest.raises(UserError, match="dtype float12: cpu has float32, bfloat16, int8"):
        load_translator(folder, "cpu", "float12")
    monkeypatch.setitem(IS_FAST, "int8", lambda: True)
    monkeypatch.setattr(module, "HAS_ONNX_RUNTIME", False)
    with pytest.raises(UserError, match="int8 needs the packages onnx and onnxruntime: pip install onnx onnxruntime"):
        load_translator(folder, "cpu", "int8")


GRAPHS = "encoder", "decoder"


class ByOnnxRuntime:
    """The decoder at work as ``Decoding`` is, by ONNX Runtime."""

    def __init__(self, folder, sources, network):
        encoder, self.decoder = (onnxruntime.InferenceSession(folder / f"{side}.onnx") for side in GRAPHS)
        found = encoder.run(None, {"tokens": sources.numpy()})
        self.attended = dict(zip(("keys", "values", "padding"), found, strict=True))
        self.positions, self.vocabulary, self.length = network.decoder.positions, len(DICTIONARY), 0
        layers, _, _, dim = self.decoder.get_inputs()[2].shape
        self.cache = np.zeros((layers, self.positions, len(sources), dim), np.float32)

    def step(self, tokens):
        sentences, width = tokens.shape
        rows = np.arange(sentences).repeat(width)
        keys, values, padding = self.attended["keys"], self.attended["values"], self.attended["padding"]
        given = {"keys": keys[:, rows], "values": values[:, rows], "padding": padding[rows], "cache": self.cache}
        given |= {"tokens": tokens.flatten().numpy(), "position": np.array([self.length])}
        logits, self.cache[:, self.length] = self.decoder.run(None, given)
        self.length += 1
        return torch.from_numpy(logits).view(sentences, width, -1)

    def follow(self, parents):
        width = self.cache.shape[2] // len(parents)
        self.cache = self.cache[:, :, (torch.arange(len(parents)).unsqueeze(1) * width + parents).flatten().numpy()]

    def keep(self, sentences):
        width = self.cache.shape[2] // self.attended["padding"].shape[0]
        self.cache = self.cache[:, :, (sentences.unsqueeze(1) * width + torch.arange(width)).flatten().numpy()]
        for name, axis in (("keys", 1), ("values", 1), ("padding", 0)):
            self.attended[name] = self.attended[name].take(sentences.numpy(), axis)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", pytest.param("all", marks=pytest.mark.long)])
def test_onnx_runtime_finds_the_same_hypotheses(tmp_path, name):
    write_onnx(Network(variant(name).state_dict(), OPTIONS), tmp_path)
    sentences = [[5, 6, 7, EOS], [8, EOS], [*range(10, 20), EOS]]
    decoding = ByOnnxRuntime(tmp_path, pad(sentences), network(name))
    found = run(decoding, pad(sentences), SearchOptions(3))
    assert_same([[(h.tokens, h.score) for h in one] for one in found], ours(name, sentences, 3))


def test_what_is_no_sentence_no_prefix_or_no_power_is_refused(folder):
    translator = load_translator(folder)
    for wrong in (None, 1.5, b"a dog"):
        with pytest.raises(TypeError, match=re.escape(f"a sentence must be a string: {wrong!r}")):
            translator.translate(["a dog", wrong])
    with pytest.raises(ValueError, match="prefix has fewer entries than there are sentences"):
        translator.translate(["a dog", "a cat"], prefix=["a"])
    with pytest.raises(ValueError, match="lenpen=nan must be from -10 to 10"):
        translator.translate("a dog", lenpen=float("nan"))
    with pytest.raises(ValueError, match="max_len_a=nan must be 0 or more"):
        translator.translate("a dog", max_len_a=float("nan"))


def test_one_string_streams_as_one_sentence(folder):
    translator = load_translator(folder)
    ((best, *_),) = translator.stream("a red dog")
    assert best.text == translator.translate("a red dog")


def test_a_limit_beyond_all_numbers_is_no_limit(folder):
    translator = load_translator(folder)
    assert translator.translate("a red dog", max_len_a=1e30) == translator.translate("a red dog") != ""


def test_half_a_surrogate_pair_counts_as_a_question_mark(folder):
    translator = load_translator(folder)
    assert translator.translate("\ud800 A dog.") == translator.translate("? A dog.")
