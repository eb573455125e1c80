"""`leaflet.html`: what the study does with a site's data, on a page for people; `templates/`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sltool.page import render
from sltool.shard.keys import fingerprint
from sltool.study.schema import Privacy, Study
from sltool.wording import plural

LIMITS = {
    "max_leak": "the leak (0: only the average patient, 1: the original)",
    "max_linkage": "the rate at which two views of a patient are linked",
    "max_exact_recovery": "the share of records that are recovered exactly",
}


def leaflet(study: Study, agreement: str, feature_shape: Sequence[int], coordinator: str) -> str:
    """The page's HTML.

    Args:
        agreement: the digest of the agreement's version.
        feature_shape: of a feature map, (C, H, W) or (D,).
        coordinator: the public key that signs the kit.
    """
    values = math.prod(feature_shape)
    content = {
        "title": f"What the study does with this hospital's data: {study.dataset.name}",
        "study": study,
        "sample": _sample(study),
        "labels": _labels(study),
        "features": " x ".join(map(str, feature_shape)),
        "values": values,
        "share": values / math.prod(study.samples.shape),
        "noise": _noise(study),
        "limits": _limits(study.privacy),
        "agreement": agreement,
        "fingerprint": fingerprint(coordinator),
    }
    return render("sltool.coordinator", "leaflet.html", content)


def _sample(study: Study) -> str:
    shape = study.samples.shape
    if len(shape) == 3:
        return f"an image of {shape[2]} x {shape[1]} pixels, {plural(shape[0], 'channel')}"
    columns = study.dataset.settings().get("columns")
    names = ", ".join(map(str, columns)) if columns else ""
    return f"a row of {plural(shape[0], 'number')}" + (
        f", from the columns {names}" if names else ""
    )


def _labels(study: Study) -> str:
    labels = study.samples.labels
    if labels.kind == "regression":
        return "a number" + (f" in {labels.unit}" if labels.unit else "")
    return f"one of the classes {', '.join(labels.classes)}"


def _noise(study: Study) -> str:
    encoding = study.encoding
    if not encoding.noise:
        return "none"
    clip = f", after clipping to the norm {encoding.clip:g}" if encoding.clip else ""
    return f"Gaussian, standard deviation {encoding.noise:g}{clip}"


def _limits(privacy: Privacy) -> list[str]:
    limits = privacy.model_dump()
    found = [
        f"{text} is at most {limits[name]:g}"
        for name, text in LIMITS.items()
        if limits[name] is not None
    ]
    return [*found, f"a {privacy.audit} audit is required"] if privacy.audit else found
