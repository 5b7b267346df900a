"""The part of a page that is explored: A of every layer, under the pointer."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import ImageOps
from torch import Tensor

from resmlp_core.common.errors import UserError
from resmlp_core.common.images import read_image
from resmlp_core.inspect.matrices import Model
from resmlp_core.inspect.plots import SIGNED, strongest

STEPS = 32767  # from zero to a layer's largest weight: 16 bits
IMAGE_SIDE = 384  # pixels, the longer side of an image beside A


def explore(model: Model, positions: int, image: Path | None = None) -> str:
    """Return the HTML of an explorable A; what it does in the browser is in ``explore.html``.

    A weight takes 16 bits, base64 2.7 bytes: ResMLP-S12 comes to 1.2 MB.

    Args:
        model: whose A it is.
        positions: how many are shown, from the first.
        image: shown under the patch grid, cut as the model's evaluation cuts it.

    Raises:
        UserError: ``image`` cannot be read, or there is no patch grid to lay it under.
    """
    content = {
        "grid": model.grid,
        "colours": SIGNED(range(256), bytes=True)[:, :3].tobytes().hex(),
        "layers": [
            {"name": f"{part + ', ' if len(model.parts) > 1 else ''}{number} of {len(layers)}"}
            | {"causal": layer.causal}
            | pack(layer.shown(positions).double())
            for part, layers in model.parts.items()
            for number, layer in enumerate(layers, 1)
        ],
        "image": picture(image, model) if image else None,
    }
    template = Path(__file__).with_name("explore.html").read_text(encoding="utf-8")
    return template.replace("{{data}}", json.dumps(content).replace("<", "\\u003c"))


def pack(matrix: Tensor) -> dict[str, Any]:
    """Return what the page needs of ``(positions, positions)``, NaN where there is no weight.

    ``weights`` are whole numbers of ``step``, 16-bit little-endian, row after row, in base64; ``limit`` is the
    magnitude that has the darkest colour, ``largest`` the largest.
    """
    present = matrix.nan_to_num()
    largest = present.abs().max().item() or 1.0
    step = largest / STEPS
    weights = (present / step).round().numpy().astype("<i2").tobytes()
    return {
        "positions": len(matrix),
        "limit": strongest(matrix),
        "largest": largest,
        "step": step,
        "weights": base64.b64encode(weights).decode(),
    }


def picture(file: Path, model: Model) -> str:
    """Return an image as the model's evaluation cuts it, a JPEG in a URL.

    Raises:
        UserError: it cannot be read, or the model's patch grid is not known.
    """
    if model.grid is None:
        raise UserError(f"--image {file} needs a grid of patches to lie under, and this model's is not known")
    height, width = (IMAGE_SIDE * side // max(model.grid) for side in model.grid)
    try:
        image = read_image(file, lambda image: ImageOps.fit(image, (width, height), bleed=(1 - model.crop) / 2))
    except ValueError as error:
        raise UserError(f"--image: {error}") from None
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
