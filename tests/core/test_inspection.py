"""Looking inside a checkpoint: figures against loops, pictures, and what is refused."""

import base64
import errno
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from resmlp_core import Affine, ChannelMLP, ConvolvedMixer, CrossPositionLinear, ResMLPLayer, fold
from resmlp_core.inspect import plots as pictures
from resmlp_core.inspect.__main__ import main
from resmlp_core.inspect.matrices import read_model
from resmlp_core.inspect.report import inspect

from .test_layer import randomise

POSITIONS, SHOWN, DIM = 6, 4, 5


def layers(count, prefix="", causal=False, norm=Affine, positions=POSITIONS, convolution=False):
    """Return the parameters of some layers, with random values of widely different magnitudes."""
    weights = {}
    for i in range(count):
        mixer = CrossPositionLinear(positions, causal)
        mixer = ConvolvedMixer(mixer, DIM, 3, causal) if convolution else mixer
        layer = ResMLPLayer(DIM, mixer, ChannelMLP(DIM, 7), layer_scale=0.1, norm=norm)
        randomise(layer, 10 * causal + i)
        for name, value in layer.state_dict().items():
            value = value**3
            weights[f"{prefix}layers.{i}.{name}"] = (
                value.tril() if causal and value.shape == (positions,) * 2 else value
            )
    return weights


def text_weights(**options):
    return layers(3, "encoder.", **options) | layers(2, "decoder.", causal=True, **options)


def look(folder, state, positions=None, image=None):
    """Inspect a checkpoint; return inside.json."""
    torch.save(state, folder / "model.pt")
    inspect(folder / "model.pt", folder / "inside", positions, image)
    return json.loads((folder / "inside" / "inside.json").read_text())


def read(folder, state):
    torch.save(state, folder / "model.pt")
    return read_model(folder / "model.pt")


def stopped(*arguments):
    """Run the command, which is to end with one line; return it."""
    with mock.patch("sys.argv", ["resmlp-inspect", *map(str, arguments)]), pytest.raises(SystemExit) as error:
        main()
    message = str(error.value)
    assert message.startswith("resmlp-inspect: ") and "\n" not in message
    return message


def share_by_loops(values):
    largest = max(abs(v) for v in values)
    return sum(abs(v) < 0.05 * largest for v in values) / len(values)


def percentile_by_loops(values, share):
    ordered, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[math.ceil(place)] - ordered[low])


def test_figures_of_text_equal_a_slow_reference(tmp_path):
    """The decoder's upper triangle is no weight: its zeros must not count as small ones."""
    weights = text_weights()
    inside = look(tmp_path, {"model": weights, "cfg": {"model": {"arch": "resmlp_tiny"}}}, SHOWN)
    assert inside["kind"] == "text" and inside["architecture"] == "resmlp_tiny" and inside["positions_shown"] == SHOWN
    assert [len(inside["layers"][part]) for part in ("encoder", "decoder")] == [3, 2]
    for part, measured in inside["layers"].items():
        for i, layer in enumerate(measured):
            name = f"{part}.layers.{i}"
            a = weights[f"{name}.cross_position.mixer.weight"].tolist()
            cells = [(t, s) for t in range(POSITIONS) for s in range(POSITIONS) if part == "encoder" or s <= t]
            shown = [(t, s) for t, s in cells if max(t, s) < SHOWN]
            entries = {
                "A": [a[t][s] for t, s in cells],
                "A_shown": [a[t][s] for t, s in shown],
                "B": weights[f"{name}.cross_channel.mixer.fc1.weight"].flatten().tolist(),
                "C": weights[f"{name}.cross_channel.mixer.fc2.weight"].flatten().tolist(),
            }
            assert layer["sparsity"] == pytest.approx({key: share_by_loops(values) for key, values in entries.items()})
            assert layer["largest"] == pytest.approx({key: max(map(abs, values)) for key, values in entries.items()})
            band = {}
            for t, s in shown:
                band.setdefault(str(s - t), []).append(abs(a[t][s]))
            assert layer["band"] == pytest.approx({k: sum(values) / len(values) for k, values in band.items()})
            for place in ("pre", "post"):
                for sublayer, measured_scale in layer["scales"][place].items():
                    alpha = weights[f"{name}.{sublayer.replace('-', '_')}.{place}.alpha"].abs().tolist()
                    assert measured_scale == pytest.approx(
                        {
                            "mean": sum(alpha) / DIM,
                            "percentile_10": percentile_by_loops(alpha, 0.1),
                            "percentile_90": percentile_by_loops(alpha, 0.9),
                        }
                    )


def test_known_shares(tmp_path):
    """Five of 100 is not under 5 %, four is; a single large weight makes the others small."""
    weights = layers(1, positions=2)
    weights["layers.0.cross_position.mixer.weight"] = torch.tensor([[100.0, 5.0], [4.0, -4.9]])
    weights["layers.0.cross_channel.mixer.fc1.weight"] = torch.ones(7, DIM)
    weights["layers.0.cross_channel.mixer.fc2.weight"] = torch.eye(DIM, 7)
    layer = read(tmp_path, weights).parts["trunk"][0]
    assert layer.measure(2)["sparsity"] == {"A": 0.5, "B": 0.0, "C": (35 - 5) / 35}


def test_layer_norm_and_a_convolution_beside_a_are_seen_as_what_they_are(tmp_path):
    weights = text_weights(norm=torch.nn.LayerNorm, convolution=True)
    model = read(tmp_path, {"model": weights})
    layer = model.parts["encoder"][0]
    assert model.pre_norm == "LayerNorm"
    assert torch.equal(layer.matrices["A"], weights["encoder.layers.0.cross_position.mixer.mixer.weight"])
    assert torch.equal(layer.scales["pre"]["cross-channel"], weights["encoder.layers.0.cross_channel.pre.weight"])


def test_an_average_of_the_weights_is_looked_into_where_there_is_one(tmp_path):
    averaged = layers(1)
    model = read(tmp_path, {"state_dict": {name: 0 * w for name, w in averaged.items()}, "state_dict_ema": averaged})
    assert torch.equal(model.parts["trunk"][0].matrices["A"], averaged["layers.0.cross_position.mixer.weight"])


def test_tied_matrices_count_once(tmp_path):
    weights = text_weights()
    embedding = torch.randn(9, DIM)
    tied = {"encoder.embed_tokens.weight": embedding, "decoder.output_projection.weight": embedding.clone()}
    count = sum(w.numel() for w in weights.values())
    assert read(tmp_path, {"model": weights | tied}).parameters == count + 9 * DIM


@pytest.mark.parametrize("side", [3, 14])
def test_filters_are_rows_of_a_on_the_patch_grid(tmp_path, side):
    """Of a large grid every so many rows are drawn, its corners among them."""
    a = torch.arange(side**4, dtype=torch.float).view(side**2, side**2) + 1
    with mock.patch.object(pictures, "save") as save:
        pictures.draw_filters({"trunk": {1: a}}, (side, side), tmp_path / "filters.png")
    axes = save.call_args[0][0].axes[0]
    mosaic = axes.images[0].get_array().filled(0)
    drawn = range(side) if side == 3 else (0, 3, 5, 8, 10, 13)
    scale = mosaic[0, 0] / a[0, 0].item()
    for i, row in enumerate(drawn):
        for j, column in enumerate(drawn):
            tile = mosaic[i * (side + 1) : i * (side + 1) + side, j * (side + 1) : j * (side + 1) + side]
            expected = scale * a[row * side + column].view(side, side)
            torch.testing.assert_close(torch.tensor(tile), expected, rtol=1e-4, atol=0)
    marks = [tuple(map(int, point)) for point in axes.lines[0].get_xydata()]
    assert marks[1] == (side + 1 + drawn[1], 0) and len(marks) == len(drawn) ** 2


def png_width(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">I", data[16:20])[0]


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        (lambda: layers(2, positions=9), {"filters", "matrices", "scales", "sparsity"}),
        (lambda: layers(2, positions=6), {"matrices", "scales", "sparsity"}),  # no square, so no known grid
        (text_weights, {"matrices", "band", "scales", "sparsity"}),
    ],
    ids=["images", "images on a grid that is no square", "text"],
)
def test_the_page_has_every_picture_and_needs_no_other_file(tmp_path, weights, names):
    look(tmp_path, weights())
    folder = tmp_path / "inside"
    assert {path.name for path in folder.iterdir()} == {f"{name}.png" for name in names} | {"index.html", "inside.json"}
    page = (folder / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|\$\{image)', page)
    assert "http" not in page
    embedded = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert sorted(embedded) == sorted(path.read_bytes() for path in folder.glob("*.png"))
    assert all(png_width(data) > 600 for data in embedded)


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def saved(state):
    return lambda path: torch.save(state, path)


def torn(path):
    torch.save(text_weights(), path)
    path.write_bytes(path.read_bytes()[:3000])


def diverged():
    weights = text_weights()
    weights["decoder.layers.1.cross_position.mixer.weight"][0, 0] = math.nan
    return weights


def without_c():
    weights = layers(2)
    del weights["layers.1.cross_channel.mixer.fc2.weight"]
    return weights


def folded():
    return fold(ResMLPLayer(DIM, CrossPositionLinear(9), ChannelMLP(DIM, 7), 0.1)).state_dict()


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (lambda path: None, [], "model.pt: No such file or directory"),
        (lambda path: path.mkdir(), [], "last.pth.tar in .*model.pt: run the recipe to its end, or name a checkpoint"),
        (lambda path: path.write_text("hello"), [], "model.pt is not a file of weights"),
        (torn, [], "model.pt is not a file of weights"),
        (saved([1, 2]), [], "model.pt is not a file of weights"),
        (saved({"model": "a name"}), [], "model.pt is not a checkpoint of a ResMLP"),
        (saved({"model": {"encoder.layers.0.self_attn.k_proj.weight": torch.ones(2, 2)}}), [], "no matrix A"),
        (saved({"layers.0.cross_channel.mixer.fc1.weight": torch.ones(2, 2)}), [], "something else mixes"),
        (saved(without_c()), [], "layers.1.cross_channel.mixer.fc2.weight is missing"),
        (saved(layers(1) | {"layers.0.cross_position.mixer.weight": torch.ones(2, 3)}), [], r"\(2, 3\).* not square"),
        (saved({f"layers.0.{name}": value for name, value in folded().items()}), [], "as in a folded model"),
        (saved(diverged()), [], "decoder.layers.1.cross_position.mixer.weight is not finite"),
        (saved(text_weights()), ["--positions", "1"], "--positions 1"),
        (saved(layers(1)), ["--positions", "4"], "--positions is for models of text"),
        (saved(text_weights()), ["--image", "x.jpg"], "--image is for models of images"),
        (saved(layers(1)), ["--image", "x.jpg"], "--image x.jpg needs a grid of patches"),
        (saved(layers(1, positions=9)), ["--image", "none.jpg"], "--image: no image none.jpg"),
        (saved(layers(1, positions=9)), ["--image", __file__], r"--image: .*\.py cannot be read as an image"),
    ],
)
def test_what_cannot_be_looked_into_is_refused_in_one_line(tmp_path, write, options, message):
    path = tmp_path / "model.pt"
    write(path)
    assert re.search(message, stopped(path, "-o", tmp_path / "inside", *options))
    assert not (tmp_path / "inside").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "last.pth.tar"])
def test_a_folder_stands_for_the_checkpoint_that_a_run_leaves_in_it(tmp_path, name):
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (save_file if "safe" in name else torch.save)(text_weights(), folder / name)
    inspect(folder, tmp_path / "inside")
    assert json.loads((tmp_path / "inside" / "inside.json").read_text())["checkpoint"] == str(folder / name)
    told = f"no model.safetensors, model.pt or last.pth.tar in {folder.parent}: name {folder}"
    assert stopped(folder.parent, "-o", tmp_path / "other") == f"resmlp-inspect: {told}"


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    torch.save({"model": text_weights(), "args": Touch(tmp_path / "ran")}, tmp_path / "evil.pt")
    message = stopped(tmp_path / "evil.pt", "-o", tmp_path / "inside")
    assert message.endswith("evil.pt is not a file of weights, or carries code, which is not run")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "inside").exists()


def test_the_extra_is_named_where_safetensors_is_missing(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with mock.patch.dict(sys.modules, {"safetensors.torch": None}):
        message = stopped(tmp_path / "model.safetensors", "-o", tmp_path / "inside")
    assert message.endswith("model.safetensors needs safetensors; it comes with the extras [mt] and [vision]")


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    torch.save(layers(1), tmp_path / "model.pt")
    (tmp_path / "file").touch()
    assert stopped(tmp_path / "model.pt", "-o", tmp_path / "file").endswith("file: File exists")


def test_a_full_disk_leaves_nothing_in_half(tmp_path):
    torch.save(layers(1), tmp_path / "model.pt")

    def save(figure, path, **options):
        path.write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    with mock.patch.object(pictures.plt.Figure, "savefig", save):
        assert "the disk is full" in stopped(tmp_path / "model.pt", "-o", tmp_path / "inside")
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["inside.json"]


def test_the_extra_is_named_where_matplotlib_is_missing(tmp_path):
    torch.save(layers(1), tmp_path / "model.pt")
    line = "import sys; sys.modules['matplotlib'] = None; from resmlp_core.inspect.__main__ import main; main()"
    arguments = [str(tmp_path / "model.pt"), "-o", str(tmp_path / "inside")]
    done = subprocess.run([sys.executable, "-c", line, *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert re.match(r"resmlp-inspect: matplotlib is not installed; .*\[mt\] and \[vision\]", done.stderr)
