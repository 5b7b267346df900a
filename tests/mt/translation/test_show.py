"""The page of --show in a real Chromium: what hovering shows is what the model's matrices hold."""

import re

import pytest
import torch

from resmlp_mt import load_translator, translate
from resmlp_mt.translation.attention import cross_attention
from resmlp_mt.translation.long_sentences import split_long
from resmlp_mt.translation.show import MOST

from .small_translators import POSITIONS, SENTENCES, write_translator

SENTENCE = SENTENCES[30]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The page of a sentence and of one that is longer than the model, and the model."""
    folder = tmp_path_factory.mktemp("show")
    model = write_translator(folder / "translator")
    (folder / "source").write_text(f"{SENTENCE}\n\n{' '.join(SENTENCES[:3])} <!--\n")
    translate.main([*map(str, (model, folder / "source", "--show", folder / "show.html"))])
    return folder / "show.html", load_translator(model)


def weights(translator, sentence):
    """Cross-attention while a sentence's translation is written, ``(layers, heads, target, source)``; the pieces."""
    (best,) = translator.translate(sentence, details=True)
    vocabulary = translator.vocabulary
    ids = vocabulary.encode(sentence), vocabulary.target_ids(best.tokens)
    named = [
        [f"“{piece.replace('▁', ' ').strip() or '␣'}”" for piece in pieces] + ["end"]
        for pieces in (vocabulary.pieces(sentence), best.tokens)
    ]
    return cross_attention(translator.network, *(torch.tensor([side]) for side in ids))[:, 0], *named


def test_the_page_needs_no_other_file_and_shows_every_piece(shown):
    page, translator = shown
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"\b(src|href)=|https?://|@import|url\(", html)
    assert "<!--" not in html  # which would hide what follows from the browser
    long = f"{' '.join(SENTENCES[:3])} <!--"
    pieces = split_long(long, lambda text: len(translator.vocabulary.encode(text)), POSITIONS)
    assert len(pieces) > 1 and f"<dt>sentences</dt><dd>{1 + len(pieces)}</dd>" in html


def test_it_takes_the_first_few_sentences_and_replaces_no_file_unasked(shown, tmp_path):
    page, _ = shown
    model = page.parent / "translator" / "resmlp"
    (tmp_path / "source").write_text("".join(f"{line}\n" for line in SENTENCES))
    arguments = [*map(str, (model, tmp_path / "source", "--beam", 1, "--show", tmp_path / "show.html"))]
    translate.main(arguments)
    assert f"<dt>sentences</dt><dd>{MOST}</dd>" in (tmp_path / "show.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match=r"translate: --show .*/show.html exists: give --force to replace it"):
        translate.main(arguments)
    with pytest.raises(SystemExit):
        translate.main([*arguments, "-o", str(tmp_path / "output")])


def test_blank_lines_are_no_sentences_and_nothing_else_is_nothing_to_show(shown, tmp_path):
    page, _ = shown
    model, source, written = page.parent / "translator" / "resmlp", tmp_path / "source", tmp_path / "show.html"
    line = [*map(str, (model, source, "--show", written))]
    for nothing in ("", (MOST + 1) * "\n"):
        source.write_text(nothing)
        with pytest.raises(SystemExit, match=r"^translate: there is nothing to show in .*: the input has no text$"):
            translate.main(line)
        assert not written.exists()
    source.write_text(f"{nothing}{SENTENCE}\n")
    translate.main(line)
    assert "<dt>sentences</dt><dd>1</dd>" in written.read_text(encoding="utf-8")


@pytest.mark.browser
class TestInABrowser:
    @pytest.fixture
    def page(self, chromium, shown):
        size = {"width": 1200, "height": 1400, "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chromium.get(shown[0].as_uri())
        return chromium

    def buttons(self, page, side):
        """The tokens of the first pair, of the translation without the mark of its begin."""
        found = page.find_elements("css selector", f".pair:first-child > :nth-child({1 + (side == 'target')}) button")
        return found[1:] if side == "target" else found

    def hover(self, page, element):
        from selenium.webdriver import ActionChains

        ActionChains(page).move_to_element(element).perform()

    def said(self, page):
        return [page.find_element("id", name).text for name in ("attention", "a")]

    def shades(self, page, side):
        """The opacity of each token's colour."""
        colours = [button.value_of_css_property("background-color") for button in self.buttons(page, side)]
        return [float(re.findall(r"[\d.]+", colour)[3]) if "rgba" in colour else 1.0 for colour in colours]

    def test_a_token_of_the_translation_shows_what_it_looks_at_and_what_a_reads(self, page, shown):
        by_layer, source, target = weights(shown[1], SENTENCE)
        a = shown[1].network.decoder.layers[-1].cross_position.mixer.weight
        for k in (0, 2, len(target) - 1):
            self.hover(page, self.buttons(page, "target")[k])
            attention, reads = self.said(page)
            row = by_layer[-1].mean(0)[k]
            most = int(row.argmax())
            assert attention.startswith(f"{target[k]} looks at {source[most]} {100 * row[most]:.0f} %")
            assert attention.endswith("(layer 2, all heads)")
            assert self.shades(page, "source") == pytest.approx([0.8 * w for w in row.tolist()], abs=0.01)
            before = ["begin", *target[:k]]
            strongest = int(a[k, : k + 1].abs().argmax())
            sign = "+" if a[k, strongest] > 0 else "−"
            expected = f"Row {k} of A, decoder, layer 2, reads {before[strongest]} {sign}{a[k, strongest].abs():.3f}"
            assert reads.startswith(expected)

    def test_a_token_of_the_source_shows_what_a_reads_and_what_looks_at_it(self, page, shown):
        by_layer, source, target = weights(shown[1], SENTENCE)
        a = shown[1].network.encoder.layers[-1].cross_position.mixer.weight[: len(source), : len(source)]
        k = 3
        self.hover(page, self.buttons(page, "source")[k])
        attention, reads = self.said(page)
        column = by_layer[-1].mean(0)[:, k]
        strongest = int(a[k].abs().argmax())
        sign = "+" if a[k, strongest] > 0 else "−"
        assert reads.startswith(
            f"Row {k} of A, encoder, layer 2, reads {source[strongest]} {sign}{a[k, strongest].abs():.3f}"
        )
        assert attention.startswith(f"{source[k]} is looked at by {target[int(column.argmax())]} ")
        assert self.shades(page, "target") == pytest.approx([0.8 * w for w in column.tolist()], abs=0.01)
        expected = (0.8 * a[k] / a[k].abs().max()).abs().tolist()
        assert self.shades(page, "source") == pytest.approx(expected, abs=0.01)

    def test_a_strip_chooses_a_layer_and_a_head_and_a_click_holds_the_token(self, page, shown):
        by_layer, source, target = weights(shown[1], SENTENCE)
        tokens = self.buttons(page, "target")
        self.hover(page, tokens[1])
        tokens[1].click()
        self.hover(page, tokens[2])
        assert self.said(page)[0].startswith(f"{target[1]} looks at ")
        strips = page.find_elements("css selector", "#by-head button")
        assert len(strips) == by_layer.shape[0] * by_layer.shape[1]
        strips[1].click()  # of layer 1, head 2
        row = by_layer[0, 1, 1]
        most = int(row.argmax())
        assert self.said(page)[0].startswith(f"{target[1]} looks at {source[most]} {100 * row[most]:.0f} %")
        assert self.said(page)[0].endswith("(layer 1, head 2)")
        assert "layer 1, reads" in self.said(page)[1]
        tokens[1].click()  # lets go
        self.hover(page, tokens[2])
        assert self.said(page)[0].startswith(f"{target[2]} looks at ")
        page.switch_to.active_element.send_keys("\ue004\ue004")  # the Tab key, from the token that was clicked
        assert self.said(page)[0].startswith(f"{target[3]} looks at ")
