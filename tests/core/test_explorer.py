"""The explorable A in a real Chromium: under the pointer, by keys and by touch, is what A holds."""

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from resmlp_core.common.checkpoint import with_grid
from resmlp_core.common.errors import UserError
from resmlp_core.inspect.explorer import IMAGE_SIDE, picture
from resmlp_core.inspect.plots import SIGNED, strongest

from .test_inspection import layers, look, text_weights

GRID, SHOWN = (2, 3), 4
PATCHES = GRID[0] * GRID[1]
A = "{}layers.{}.cross_position.mixer.weight"


class Page:
    """A page in the browser, worked as a person does: pointer, fingers and keys."""

    def __init__(self, driver, file, width=1200, dark=False):
        self.driver = driver
        size = {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get(file.as_uri())

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def keys(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def place(self, panel, k, rows, columns):
        """Return where in the window the middle of a panel's cell is, scrolled to."""
        box = self.run(
            "const e = document.getElementById(arguments[0]); e.scrollIntoView({block: 'nearest'});"
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]",
            panel,
        )
        return {
            "x": box[0] + (k % columns + 0.5) / columns * box[2],
            "y": box[1] + (k // columns + 0.5) / rows * box[3],
        }

    def move(self, *where):
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", **self.place(*where)})

    def click(self, *where):
        for kind in ("mousePressed", "mouseReleased"):
            event = {"type": kind, "button": "left", "clickCount": 1, **self.place(*where)}
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def tap(self, *where):
        point = self.place(*where)
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def text(self, name):
        return self.run("return document.getElementById(arguments[0]).textContent", name)

    def said(self, name):
        """Return the position written, the one read, and the weight that a panel tells; the weight None if none."""
        found = re.search(r"A\[(\d+), (\d+)\] = ([+−][\d.]+)", self.text(f"{name}-weight"))
        return found and (int(found[1]), int(found[2]), float(found[3].replace("−", "-")))

    def pixels(self, panel):
        """Return a panel's canvas, ``(rows, columns, 4)``."""
        data, width = self.run(
            "const c = document.querySelector(`#${arguments[0]} canvas`);"
            "return [[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data], c.width]",
            panel,
        )
        return np.array(data, dtype=np.uint8).reshape(-1, width, 4)

    def next_layer(self):
        self.run("document.getElementById('layer').focus()")
        self.keys("\ue014")  # arrow right


def precision(a):
    return a.abs().max().item() / 32767


def colours(weights, a, shape):
    """Return the colours that the static pictures have for some weights of A."""
    return SIGNED((weights / strongest(a)).view(shape) / 2 + 0.5, bytes=True)


def same_colours(found, expected):
    """Whether they are the same, or neighbours of the map's 256, which 16 bits may tip a weight into."""
    return abs(found.astype(int) - expected.astype(int)).max() <= 4


def laid_out(a):
    """Return the rows of A, each laid out as the patch grid, where the patches are that they write."""
    return a.view(*GRID, *GRID).transpose(1, 2).reshape(GRID[0] ** 2, GRID[1] ** 2)


@pytest.fixture(scope="module")
def of_images(tmp_path_factory):
    """On a grid that is no square, which shows rows that are taken for columns."""
    folder, weights = tmp_path_factory.mktemp("images"), with_grid(layers(3, positions=PATCHES), GRID)
    look(folder, weights)
    return folder / "inside" / "index.html", [weights[A.format("", i)] for i in range(3)]


@pytest.fixture(scope="module")
def of_text(tmp_path_factory):
    folder, weights = tmp_path_factory.mktemp("text"), text_weights()
    look(folder, weights, SHOWN)
    names = [A.format("encoder.", i) for i in range(3)] + [A.format("decoder.", i) for i in range(2)]
    return folder / "inside" / "index.html", [weights[name][:SHOWN, :SHOWN] for name in names]


class TestInABrowser:
    pytestmark = pytest.mark.browser

    def test_under_the_pointer_is_what_a_holds_in_every_layer(self, chromium, of_images):
        file, matrices = of_images
        page = Page(chromium, file)
        for number, a in enumerate(matrices, 1):
            assert page.text("layer-name") == f"{number} of 3"
            assert same_colours(page.pixels("choose"), colours(laid_out(a), a, (GRID[0] ** 2, GRID[1] ** 2)))
            for patch in range(PATCHES):
                page.move("choose", patch, *GRID)
                assert page.text("choose-title") == f"patch ({patch // GRID[1]}, {patch % GRID[1]})"
                assert same_colours(page.pixels("row"), colours(a[patch], a, GRID))
                assert same_colours(page.pixels("column"), colours(a[:, patch], a, GRID))
            page.click("choose", 4, *GRID)  # holds it, while the pointer goes on to a row and a column
            page.move("choose", 5, *GRID)
            for other in range(PATCHES):
                for panel in ("row", "column"):
                    page.move(panel, other, *GRID)
                    near = precision(a)
                    assert page.said("row") == (4, other, pytest.approx(a[4, other].item(), rel=0, abs=near))
                    assert page.said("column") == (other, 4, pytest.approx(a[other, 4].item(), rel=0, abs=near))
            page.click("choose", 4, *GRID)
            page.move("choose", 5, *GRID)
            assert page.said("row")[:2] == (5, 5)
            page.next_layer()
        assert page.text("layer-name") == "3 of 3"
        page.click("layer", 0, 1, 3)
        assert page.text("layer-name") == "1 of 3"

    def test_of_text_too_where_a_decoder_has_no_weight_for_later_positions(self, chromium, of_text):
        file, matrices = of_text
        page = Page(chromium, file)
        for number, a in enumerate(matrices):
            decoder = number > 2
            assert page.text("layer-name") == ("decoder, " if decoder else "encoder, ") + (
                f"{number - 2} of 2" if decoder else f"{number + 1} of 3"
            )
            shown = a.masked_fill(torch.ones_like(a).triu(1).bool(), np.nan) if decoder else a
            assert same_colours(page.pixels("choose")[..., :3], colours(shown, shown, (SHOWN, SHOWN))[..., :3])
            for k in range(SHOWN**2):
                page.move("choose", k, SHOWN, SHOWN)
                written, read = divmod(k, SHOWN)
                if decoder and read > written:
                    assert page.said("row") is None and "reads no later" in page.text("row-weight")
                else:
                    near = pytest.approx(a[written, read].item(), rel=0, abs=precision(a))
                    assert page.said("row") == (written, read, near)
            page.click("choose", SHOWN + 1, SHOWN, SHOWN)
            page.move("column", 3, 1, SHOWN)
            assert page.said("column") == (3, 1, pytest.approx(a[3, 1].item(), rel=0, abs=precision(a)))
            page.click("choose", SHOWN + 1, SHOWN, SHOWN)
            page.next_layer()

    def test_bars_rise_and_fall_with_the_weights(self, chromium, of_text):
        file, (a, *_) = of_text
        page = Page(chromium, file)
        page.move("choose", 0, SHOWN, SHOWN)
        bars = page.pixels("row")
        middle, wide = bars.shape[0] // 2, bars.shape[1] // SHOWN
        for k in range(SHOWN):
            painted = bars[:, wide * k + wide // 2, 3] > 0
            height = abs(a[0, k].item()) / a.abs().max().item() * middle
            up, down = painted[: middle - 1].sum(), painted[middle + 1 :].sum()
            assert (up, down) == pytest.approx((height, 0) if a[0, k] > 0 else (0, height), abs=2)

    def test_by_keys(self, chromium, of_images):
        page = Page(chromium, of_images[0])
        page.run("document.getElementById('layer').focus()")
        up, down, left, right, tab = "\ue013", "\ue015", "\ue012", "\ue014", "\ue004"
        page.keys(tab)
        focused = chromium.switch_to.active_element
        assert (focused.aria_role, focused.accessible_name) == ("application", "Patch (1, 1)")
        page.keys(right)
        assert page.said("row")[:2] == (5, 5)
        page.keys(right, down)  # the grid ends here
        assert page.said("row")[:2] == (5, 5)
        page.keys(tab, up, left)
        assert page.said("row")[:2] == (5, 1)
        page.keys(tab)
        page.keys(left)
        assert page.said("column")[:2] == (0, 5)

    def test_by_keys_over_text(self, chromium, of_text):
        page = Page(chromium, of_text[0])
        page.run("document.getElementById('layer').focus()")
        down, left, right, tab = "\ue015", "\ue012", "\ue014", "\ue004"
        page.keys(tab, down)
        assert page.said("row")[:2] == (3, 2)
        page.keys(left)
        assert page.said("row")[:2] == (3, 1)
        page.keys(tab, right)
        assert page.said("row")[:2] == (3, 2)
        page.keys(tab, left)
        assert page.said("column")[:2] == (1, 3)

    def test_by_touch_on_a_phone(self, chromium, of_images):
        file, (a, *_) = of_images
        page = Page(chromium, file, width=360)
        page.tap("choose", 2, *GRID)
        assert page.text("choose-title") == "patch (0, 2)"
        page.tap("choose", 3, *GRID)
        page.tap("row", 4, *GRID)
        assert page.said("row") == (3, 4, pytest.approx(a[3, 4].item(), rel=0, abs=precision(a)))

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [1200, 360])
    def test_it_fits_a_screen_in_light_and_dark(self, chromium, of_images, of_text, width, dark):
        for file, _ in (of_images, of_text):
            page = Page(chromium, file, width, dark)
            wide, inner, colour = page.run(
                "return [document.documentElement.scrollWidth, innerWidth, getComputedStyle(document.body).color]"
            )
            assert wide <= inner == width and colour == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")
            shown = page.run(
                "return [...document.querySelectorAll('.wide, .map')].map(e => e.getBoundingClientRect().width)"
            )
            assert len(shown) > 5 and all(100 < w < width for w in shown)
            pictures = page.run("return [...document.images].map(image => [image.naturalWidth, image.width])")
            assert all(w > 600 for w, _ in pictures)
            assert all(w > 0.6 * natural for natural, w in pictures)  # their letters of 16 pixels are 10 at least
            assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]

    def test_an_image_lies_under_its_patches(self, chromium, tmp_path):
        weights = with_grid(layers(1, positions=PATCHES), GRID)
        Image.new("RGB", (60, 60), "green").save(tmp_path / "green.png")
        look(tmp_path, weights, image=tmp_path / "green.png")
        page = Page(chromium, tmp_path / "inside" / "index.html")
        boxes = page.run(
            "return ['#choose img', '#choose canvas'].map(e => document.querySelector(e).getBoundingClientRect())"
            ".map(b => [b.left, b.top, b.width, b.height])"
        )
        assert boxes[0] == pytest.approx(boxes[1], abs=1)
        assert boxes[0][3] / boxes[0][2] == pytest.approx(GRID[0] / GRID[1], abs=0.01)
        page.move("choose", 5, *GRID)
        a = weights[A.format("", 0)]
        opacity = (a[5].abs() / strongest(a)).clamp(max=1) * 200
        np.testing.assert_allclose(page.pixels("choose")[..., 3].flatten(), opacity, atol=1)


def test_an_image_is_upright_and_cut_like_in_the_evaluation(tmp_path):
    """Stored lying, 80 x 40: the middle of the upright 40 x 80 is black, what is cut away white."""
    pixels = np.full((40, 80, 3), 255, np.uint8)
    pixels[10:30, 30:50] = 0
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    pixels[10:15, 30:35] = (255, 0, 0)  # stored at the top left, which is at the top right when upright
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    url = picture(tmp_path / "photo.png", SimpleNamespace(grid=(2, 2), crop=0.5))
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (IMAGE_SIDE, IMAGE_SIDE)
    small = np.asarray(image.resize((4, 4), Image.Resampling.BOX)).astype(int)
    assert small[0, 3, 0] > 200 and small[0, 3, 1] < 60
    small[0, 3] = 0
    assert small.max() < 40


def test_an_image_has_the_shape_of_the_patch_grid(tmp_path):
    """Of a square the middle half is black, the rest white."""
    pixels = np.full((40, 40), 255, np.uint8)
    pixels[10:30] = 0
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    url = picture(tmp_path / "photo.png", SimpleNamespace(grid=(2, 4), crop=1))
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (IMAGE_SIDE, IMAGE_SIDE // 2) and np.asarray(image)[8:-8].max() < 40


@pytest.mark.parametrize("mode", ["L", "I;16", "I", "CMYK", "P", "RGBA", "1"])
def test_images_of_every_kind(tmp_path, mode):
    """As a classifier sees them: those of more than 8 bits are scaled by the depth that their brightest pixel needs."""
    grey = Image.new("L", (20, 20), 128)
    deep = {"I;16": np.full((20, 20), 128 * 16, np.uint16), "I": np.full((20, 20), 128 * 257, np.int32)}
    stored = Image.fromarray(deep[mode]) if mode in deep else grey.convert(mode)
    stored.save(tmp_path / ("image.tif" if mode in ("CMYK", "I") else "image.png"))
    url = picture(next(tmp_path.iterdir()), SimpleNamespace(grid=(2, 2), crop=0.9))
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert np.asarray(image).mean() == pytest.approx(128, abs=3)


def test_an_image_of_no_known_range_is_refused(tmp_path):
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"^--image: .*float\.tif cannot be read as an image: its pixels are floating"):
        picture(tmp_path / "float.tif", SimpleNamespace(grid=(2, 2), crop=0.9))
