"""Pictures, figures and a page of what a checkpoint has inside."""

from pathlib import Path

from resmlp_core.common.checkpoint import find_checkpoint
from resmlp_core.common.errors import UserError
from resmlp_core.common.files import write_json
from resmlp_core.inspect.explorer import explore
from resmlp_core.inspect.html import Section, write_page
from resmlp_core.inspect.matrices import BAND, SMALL, Model, read_model
from resmlp_core.inspect.plots import Measures, draw_band, draw_filters, draw_matrices, draw_scales, draw_sparsity

PICTURES = ("filters", "matrices", "band", "scales", "sparsity")
SHOWN_POSITIONS = 40  # of a text model
FILTERED_LAYERS = 4  # of an image model, whose rows are drawn as filters


def inspect(checkpoint: str | Path, output: Path, positions: int | None = None, image: Path | None = None) -> None:
    """Draw and measure a checkpoint's layers: PNGs, inside.json, and index.html, which shows them all.

    Args:
        checkpoint: of fairseq or of a classifier's training run, or released weights: a file, a URL, or the folder of a
            recipe, a training run or an exported translator.
        output: the folder to write to; other files in it stay.
        positions: of a text model, how many are shown, from the first; 40 if not given.
        image: of an image model, an image file to show under its patches.

    Raises:
        UserError: it is not a checkpoint of a ResMLP, or ``positions`` or ``image`` does not apply to it.
    """
    checkpoint = find_checkpoint(checkpoint)
    model = read_model(checkpoint)
    if positions is not None and model.of_images:
        raise UserError(f"--positions is for models of text, and {checkpoint} is one of images")
    if positions is not None and positions < 2:
        raise UserError(f"--positions {positions} is too few; it takes two to read one another")
    if image is not None and not model.of_images:
        raise UserError(f"--image is for models of images, and {checkpoint} is one of text")
    most = max(len(layers[0].matrices["A"]) for layers in model.parts.values())
    shown = most if model.of_images else min(positions or SHOWN_POSITIONS, most)
    explored = Section("Explore A", how_to_explore(model), html=explore(model, shown, image))
    measures = {part: [layer.measure(shown) for layer in layers] for part, layers in model.parts.items()}
    output.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:  # another model's, which this one may not have
        (output / f"{name}.png").unlink(missing_ok=True)
    content = {
        "checkpoint": str(checkpoint),
        "kind": "images" if model.of_images else "text",
        "architecture": model.architecture,
        "parameters": model.parameters,
        "pre_norm": model.pre_norm,
        "patch_grid": model.grid,
        "positions_shown": shown,
        "sparsity_threshold": SMALL,
        "layers": measures,
    }
    write_json(output / "inside.json", content)
    sections = [explored, *draw(model, measures, shown, output), tabulate(measures, shown)]
    write_page(output / "index.html", f"Inside {Path(checkpoint).name}", describe(model), sections)


def describe(model: Model) -> dict[str, str]:
    """Return the facts that head the page."""
    sizes = {part: len(layers[0].matrices["A"]) for part, layers in model.parts.items()}
    return {
        "Model": model.architecture or "the checkpoint does not name it",
        "For": "images" if model.of_images else "text",
        "Parameters": f"{model.parameters:,}",
        "Layers": ", ".join(f"{part} {len(layers)}" for part, layers in model.parts.items()),
        "A": ", ".join(f"{part} {size} × {size}" for part, size in sizes.items()),
        "Before the mixers": model.pre_norm,
    }


def how_to_explore(model: Model) -> str:
    """Say how to read the part of the page that is explored."""
    place = "patch" if model.grid else "position"
    counted = "Patches are (row, column) and, like A, count from 0." if model.grid else "Positions count from 0."
    return (
        f"Choose a {place}. Its row of A writes it: how much of every {place} goes into it. Its column reads it: how "
        f"much of it goes into every {place}. The dot marks it. {counted}"
    )


def draw(model: Model, measures: Measures, shown: int, output: Path) -> list[Section]:
    """Draw every picture that the model has, and say how to read each."""
    sections = []
    colours = (
        "Blue adds what is read, red subtracts it; the darkest stand for the number in a layer's brackets and beyond, "
        "which one weight in a hundred reaches."
    )
    if model.grid:
        path = output / "filters.png"
        draw_filters(model.matrices(shown, FILTERED_LAYERS), model.grid, path)
        text = (
            "A row of A says how much of every patch goes into one: laid out as the image is, it is a filter. Each "
            f"stands where the patch is that it writes, which the dot marks. {colours} The paper's figure 2 has near "
            "patches in early layers, like a convolution's, and far ones later."
        )
        sections.append(Section("Rows of A as filters", text, path))

    path = output / "matrices.png"
    draw_matrices(model.matrices(shown), path)
    if model.of_images:
        text = f"A row for each patch written, a column for each patch read, both line by line. {colours}"
    else:
        text = (
            f"A row for each position written, a column for each position read, the first {shown} of them: beyond the "
            f"training sentences a weight stays as it started. {colours} A decoder's A is triangular, as it reads no "
            "later position: where it is grey there is no weight."
        )
    sections.append(Section("A", text, path))

    if not model.of_images:
        path = output / "band.png"
        draw_band(measures, path)
        text = (
            f"How strongly a position reads those up to {BAND} before (k < 0) and after it (k > 0): the mean magnitude "
            "of A along each diagonal, beside that of the layer's strongest diagonal."
        )
        sections.append(Section("The band around the diagonal", text, path))

    path = output / "scales.png"
    draw_scales(measures, model.pre_norm, path)
    text = (
        "The scale of each channel before and after a sublayer. After it, α is LayerScale: the larger, the more the "
        "sublayer adds to the residual stream. The line is the mean magnitude, the band its 10th to 90th percentile."
    )
    sections.append(Section("The scales α", text, path))

    path = output / "sparsity.png"
    draw_sparsity(measures, shown, path)
    text = (
        f"The share of weights whose magnitude is under {SMALL:.0%} of the largest in the same matrix (the paper's "
        "figure 3, where A is sparser than B and C)."
    )
    sections.append(Section("Sparsity", text, path))
    return sections


def tabulate(measures: Measures, shown: int) -> Section:
    """Tabulate the shares of small weights."""
    names = {"A": "A", "A_shown": f"A, first {shown} positions", "B": "B", "C": "C"}
    kept = [
        name for name in names if any(name in layer["sparsity"] for layers in measures.values() for layer in layers)
    ]
    rows = [
        [f"{part} {number}", *(f"{layer['sparsity'][name]:.1%}" if name in layer["sparsity"] else "" for name in kept)]
        for part, layers in measures.items()
        for number, layer in enumerate(layers, 1)
    ]
    text = f"The same in figures: the share of weights under {SMALL:.0%} of the largest."
    return Section("Sparsity by layer", text, table=[["layer", *(names[name] for name in kept)], *rows])
