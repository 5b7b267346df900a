"""Scores of translations: sacreBLEU's BLEU and chrF, older papers' BLEU, COMET; and whether two systems differ."""

import importlib
import re
import unicodedata
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from resmlp_core.common.errors import UserError

COMET = "Unbabel/wmt22-comet-da"


def score(hypotheses: Sequence[str], references: Sequence[str], language: str = "") -> dict[str, float | str]:
    """Score detokenised hypotheses against raw references, one for each.

    Args:
        hypotheses: detokenised text.
        references: raw text, one for each hypothesis.
        language: the code of their language, by which sacreBLEU chooses its tokeniser: for Chinese (``zh``, or such as
            ``zh_CN``), Japanese (``ja``) and Korean (``ko``) one of its own.

    Returns:
        From 0 to 100, ``bleu``, sacreBLEU's with its ``signature``; ``bleu_lowercase``, the same on lower-cased text,
        which is near the "tokenised, lower-cased BLEU" that papers report on Multi30k; and ``chrf``, sacreBLEU's chrF2.
        The signatures of the latter two are ``signature_lowercase`` and ``signature_chrf``.

    Raises:
        UserError: the numbers of hypotheses and references differ, or the language's tokeniser is not installed.
    """
    check_number("hypotheses", hypotheses, references)
    cased, lowercase, chrf = bleu_of(language), bleu_of(language, lowercase=True), CHRF()
    return {
        "bleu": cased.corpus_score(hypotheses, [references]).score,
        "bleu_lowercase": lowercase.corpus_score(hypotheses, [references]).score,
        "chrf": chrf.corpus_score(hypotheses, [references]).score,
        "signature": str(cased.get_signature()),
        "signature_lowercase": str(lowercase.get_signature()),
        "signature_chrf": str(chrf.get_signature()),
    }


def bleu_of(language: str, lowercase: bool = False) -> BLEU:
    """Make sacreBLEU's BLEU with its tokeniser for a language.

    Raises:
        UserError: the tokeniser is not installed.
    """
    try:
        return BLEU(lowercase=lowercase, trg_lang=language.lower().partition("_")[0])
    except RuntimeError as error:
        raise UserError(f"BLEU of {language}: {' '.join(str(error).split())}") from None


def moses_tokenizer(language: str, asked_by: str = "--tokenized") -> Any:
    """Make Moses's tokeniser of a language, as sacremoses ports it.

    Raises:
        UserError: Moses does not know the language, or sacremoses is not installed; it names ``asked_by``.
    """
    sacremoses = installed("sacremoses", asked_by, "sacremoses")
    known = sorted(set(sacremoses.corpus.NonbreakingPrefixes().available_langs.values()))
    if language not in known:  # sacremoses would take it for English, and not say so
        raise UserError(f"{asked_by}: Moses does not know the language {language}, only {', '.join(known)}")
    return sacremoses.MosesTokenizer(language)


def score_tokenized(
    hypotheses: Sequence[str], references: Sequence[str], language: str, split_compounds: bool = False
) -> dict[str, float | str]:
    """Score as papers did before sacreBLEU: BLEU on Moses's tokens, not to be compared with ``bleu``.

    The steps are those of tensor2tensor's ``get_ende_bleu.sh``, here on the references too: Moses's ``tokenizer.perl``
    without ``-a``, as sacremoses ports it; where asked for, the compounds put apart; then ``multi-bleu.perl``'s
    case-sensitive BLEU-4 without smoothing.

    Args:
        hypotheses: detokenised text.
        references: raw text, one for each hypothesis.
        language: the code of their language, such as ``de``.
        split_compounds: also score with the compounds put apart, as papers do on WMT'14 English-German.

    Returns:
        From 0 to 100, ``bleu_tokenized`` and, if asked for, ``bleu_tokenized_split``. Each has a signature in
        sacreBLEU's form, whose ``tok`` names the steps: ``signature_tokenized``, ``signature_tokenized_split``.

    Raises:
        UserError: the numbers of hypotheses and references differ, Moses does not know the language, or sacremoses is
            not installed.
    """
    check_number("hypotheses", hypotheses, references)
    tokenizer = moses_tokenizer(language)
    steps = f"moses-{language}-sacremoses-{version('sacremoses')}"
    tokens = [[tokenizer.tokenize(line, return_str=True) for line in lines] for lines in (hypotheses, references)]
    variants = [("tokenized", steps, tokens)]
    if split_compounds:
        variants.append(("tokenized_split", f"{steps}-atat", [[split(line) for line in lines] for lines in tokens]))

    result: dict[str, float | str] = {}
    for name, tok, (system, reference) in variants:
        metric = BLEU(tokenize="none", smooth_method="none", force=True)  # what multi-bleu.perl computes
        result[f"bleu_{name}"] = metric.corpus_score(system, [reference]).score
        signature = metric.get_signature()
        signature.update("tok", tok)
        result[f"signature_{name}"] = str(signature)
    return result


def split(line: str) -> str:
    r"""Put the compounds of a tokenised line apart: ``rich-text format`` becomes ``rich ##AT##-##AT## text format``.

    This is perl's ``s{(\S)-(\S)}{$1 ##AT##-##AT## $2}g`` of ``get_ende_bleu.sh`` and of fairseq's
    ``compound_split_bleu.sh``, with what it leaves together: matches do not overlap, and ``A-B-C`` keeps its ``B-C``.
    """
    # on bytes, as perl does it: the Ö of A-Ö-C has two of them, one for each match, and does not stay with the C
    return re.sub(rb"(\S)-(\S)", rb"\1 ##AT##-##AT## \2", line.encode()).decode()


def score_comet(
    hypotheses: Sequence[str], references: Sequence[str], sources: Sequence[str], model: str = COMET
) -> dict[str, float | str]:
    """Score with COMET, on the GPU where there is one.

    Args:
        hypotheses: detokenised text.
        references: raw text, one for each hypothesis.
        sources: raw text, one for each hypothesis.
        model: the name of a model for unbabel-comet to download, or the path of a checkpoint.

    Returns:
        ``comet``, the mean of the model's scores, most of which lie between 0 and 1, and ``comet_model``.

    Raises:
        UserError: the numbers of sentences differ, unbabel-comet is not installed, or it cannot load the model.
    """
    check_number("hypotheses", hypotheses, references)
    check_number("sources", sources, references)
    # it needs older versions of what prepare and training need, and setuptools for its pkg_resources
    comet = installed("comet", "--comet", "unbabel-comet 'setuptools<81', in another environment than you train in")
    try:
        scorer = comet.load_from_checkpoint(model if Path(model).is_file() else comet.download_model(model))
    except Exception as error:  # of no narrower type
        raise UserError(f"--comet: {model} cannot be downloaded or loaded: {' '.join(str(error).split())}") from None
    triples = zip(sources, hypotheses, references, strict=True)
    samples = [{"src": source, "mt": hypothesis, "ref": reference} for source, hypothesis, reference in triples]
    prediction = scorer.predict(samples, gpus=int(torch.cuda.is_available()), progress_bar=False)
    return {"comet": float(prediction.system_score), "comet_model": model}


def compare(
    hypotheses: Sequence[str], against: Sequence[str], references: Sequence[str], language: str = ""
) -> dict[str, Any]:
    """Return whether two systems differ by more than chance: sacreBLEU's paired bootstrap resampling.

    The language is the ``score``'s.

    Returns:
        How many ``samples`` were drawn, with which ``seed``: sacreBLEU's, or the environment variable SACREBLEU_SEED.
        For ``bleu`` and for ``chrf`` the ``p_value`` of there being no difference, and for both systems, ``generated``
        and ``against``, the ``score`` and its 95% confidence interval, ``mean`` ± ``ci95``.

    Raises:
        UserError: the numbers of sentences differ, or both systems wrote the same.
    """
    check_number("hypotheses", hypotheses, references)
    check_number("hypotheses of --against", against, references)
    if list(hypotheses) == list(against):  # the p-value would come out at its lowest, as if they differed
        raise UserError("--against: both outputs hold the same hypotheses")
    systems = [("against", against), ("generated", hypotheses)]
    test = PairedTest(systems, {"bleu": bleu_of(language), "chrf": CHRF()}, [references], test_type="bs")
    signatures, results = test()
    comparison: dict[str, Any] = {"samples": test.n_samples, "seed": signatures["BLEU"].info["seed"]}
    for name, key in ("bleu", "BLEU"), ("chrf", "chrF2"):
        baseline, system = cast(list[Any], results[key])
        comparison[name] = {
            "p_value": system.p_value,
            "generated": {"score": system.score, "mean": float(system.mean), "ci95": float(system.ci)},
            "against": {"score": baseline.score, "mean": float(baseline.mean), "ci95": float(baseline.ci)},
        }
    return comparison


def other_form(hypotheses: Sequence[str], references: Sequence[str], language: str = "") -> str:
    """Warn where BLEU would be another if all letters were composed: ä is one character, or two, a and U+0308.

    Models write composed letters, as sentencepiece makes them (NFC); references need not have them. Without such a
    difference the warning is empty.
    """
    if all(unicodedata.is_normalized("NFC", line) for line in (*hypotheses, *references)):
        return ""
    composed = [[unicodedata.normalize("NFC", line) for line in lines] for lines in (hypotheses, references)]
    before, after = (
        bleu_of(language).corpus_score(*pair).score
        for pair in ((hypotheses, [references]), (composed[0], composed[1:]))
    )
    if before == after:
        return ""
    return (
        f"accented letters are composed (NFC) in some lines and not in others: BLEU is {before:.2f}, and would be "
        f"{after:.2f} with references and hypotheses in NFC: uconv -x nfc makes that of a file"
    )


def installed(module: str, option: str, package: str) -> ModuleType:
    """Import what only ``option`` needs, and which takes seconds to import.

    Raises:
        UserError: it cannot be imported; the message names the package to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{option}: {error}: pip install {package}") from None


def check_number(name: str, lines: Sequence[str], references: Sequence[str]) -> None:
    """Refuse other than one line for each reference.

    Raises:
        UserError: the numbers differ.
    """
    if len(lines) != len(references):
        raise UserError(f"{len(lines)} {name} but {len(references)} references")
