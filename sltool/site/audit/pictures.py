"""PNGs of original, shipped and rebuilt samples, side by side. They show patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sltool.site.audit.judge import Judge
from sltool.site.audit.run import AuditResult
from sltool.site.pictures import image_of, planes, png_base64

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
            png_base64(image_of(result.truth.inputs[row])),
            [png_base64(image_of(plane)) for plane in planes(result.truth.maps[row], CHANNELS)],
            png_base64(image_of(rebuilt[row])),
        )
        for title, row in chosen.items()
    ]
