"""PNGs of original, shipped and rebuilt samples, side by side. They show patients."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.site.audit.judge import Judge
from sltool.site.audit.run import AuditResult

Array = NDArray[Any]

SIDE = 192
CHANNELS = 4


@dataclass(frozen=True)
class Case:
    """One held-out sample; the pictures are PNGs in base64."""

    title: str
    original: str
    shipped: list[str]
    rebuilt: str


def cases(result: AuditResult) -> list[Case]:
    """The worst, median and best case for the patient, by the strongest attacker; [] for rows."""
    if not result.scene.is_image:
        return []
    rebuilt = result.attacks[0].rebuilt
    scores = Judge(result.scene, result.truth).similarity(rebuilt)
    order = np.argsort(scores)
    chosen = {
        "worst case: rebuilt best": order[-1],
        "median case": order[len(order) // 2],
        "best case: rebuilt worst": order[0],
    }
    return [
        Case(
            f"{title}, SSIM {scores[row]:.2f}",
            _png(result.truth.inputs[row]),
            _channels(result.truth.maps[row]),
            _png(rebuilt[row]),
        )
        for title, row in chosen.items()
    ]


def _channels(maps: Array) -> list[str]:
    """A picture of each of the first channels; maps that are not a grid are shown as a strip."""
    planes = maps if maps.ndim == 3 else maps.reshape(1, 1, -1)
    return [_png(_stretched(plane)[None]) for plane in planes[:CHANNELS]]


def _stretched(plane: Array) -> Array:
    low, high = plane.min(), plane.max()
    return np.asarray((plane - low) / max(high - low, 1e-6))


def _png(picture: Array) -> str:
    """(C, H, W) from 0 to 1 -> a PNG in base64, enlarged without interpolation."""
    from PIL import Image

    pixels = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    shown = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
    image = Image.fromarray(np.ascontiguousarray(shown))
    height = max(1, round(SIDE * image.height / image.width))
    image = image.resize((SIDE, height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
