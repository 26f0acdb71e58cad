"""The widgets as pages that live without Python: python tools/make_live_pages.py [FOLDER]   (default _docs/live)

Two photos that come with scikit-image and matplotlib, the shipped encoder, training-free models: about a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FACE = ROOT / "data/demo/face_support.png"
EYE = [0.21, 0.47]  # (y, x) of the astronaut's eye, as shares of the photo


def photos() -> tuple[Any, Any]:
    """The astronaut and Grace Hopper, uint8 (H, W, 3)."""
    import numpy as np
    from matplotlib import cbook
    from PIL import Image
    from skimage import data

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return data.astronaut(), np.asarray(Image.open(file).convert("RGB"))


def similarity() -> tuple[Any, dict]:
    from fsskit.similarity_explorer import similarity_view

    return similarity_view(*photos(), FACE, max_bytes=5_000_000), {"place": EYE}


def correlation() -> tuple[Any, dict]:
    from fsskit.correlation_explorer import correlation_view

    return correlation_view(*photos(), FACE), {"query": [0.32, 0.57], "support": EYE}


def attention() -> tuple[Any, dict]:
    from fsskit.attention_explorer import encoder_view

    return encoder_view(photos()[0]), {"place": EYE}


def painter() -> tuple[Any, dict]:
    from fsskit.mask_painter import PainterView

    return PainterView(photos()[0], FACE), {}


PAGES: dict[str, Callable[[], tuple[Any, dict]]] = {
    "similarity_explorer": similarity,
    "correlation_explorer": correlation,
    "attention_explorer": attention,
    "mask_painter": painter,
}


def main(folder: Path) -> None:
    """Write all pages into the folder."""
    for name, make in PAGES.items():
        view, state = make()
        path = view.to_html(folder / f"{name}.html", **state)
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_docs/live")
