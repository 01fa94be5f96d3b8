"""Draw `docs/examples.png`: the example pairs, and what the shipped bundle answers.

Run from the repository's root: `python -m examples.draw_answers`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from app.answers import encode
from app.images import upscale
from app.schemas import SaliencyOptions
from model.bundle import open_bundle
from model.preprocessing import DepthConvention, prepare_depth, prepare_rgb
from model.runtimes.onnx_runtime import OnnxRuntime

FOLDER = Path(__file__).parent
CONVENTIONS: dict[str, DepthConvention] = {
    "vase": "near_bright",
    "cone": "near_dark",
    "mug": "metric",
}
THRESHOLD = SaliencyOptions().threshold
TILE = (320, 240)
"""Width and height of one picture, in pixels."""


def main() -> None:
    """One row per pair: colour, depth as sent, `output=map`, and `output=cutout` on white."""
    bundle = open_bundle(Path("bundles/saliency-compact"))
    runtime = OnnxRuntime(bundle.model_path)
    rows = []
    for name, convention in CONVENTIONS.items():
        rgb = Image.open(FOLDER / f"{name}_rgb.jpg")
        depth = np.asarray(Image.open(FOLDER / f"{name}_depth.png"))
        size = bundle.manifest.input_size
        (answer,) = runtime.run(
            prepare_rgb(rgb, size)[None], prepare_depth(depth, convention, size)[None]
        )
        shown = Image.fromarray(np.round(255.0 * depth / depth.max()).astype(np.uint8))
        saliency = upscale(answer, rgb.size)
        files = (encode(output, saliency, rgb, THRESHOLD) for output in ("map", "cutout"))
        grey, cutout = (Image.open(io.BytesIO(file)) for file in files)
        on_white = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), cutout)
        tiles = [picture.convert("RGB").resize(TILE) for picture in (rgb, shown, grey, on_white)]
        rows.append(np.hstack([np.asarray(tile) for tile in tiles]))
    Path("docs").mkdir(exist_ok=True)
    Image.fromarray(np.vstack(rows)).save("docs/examples.png", optimize=True)


if __name__ == "__main__":
    main()
