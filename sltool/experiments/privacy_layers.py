"""The privacy layers that `reproduce privacy` compares, by dataset: a line for each.

A layer's name begins with its kind (random, noisy, quantised, dp, learned), which has a marker of
its own in the figure.

All layers of a dataset share its training settings, split and seeds. Those with an epsilon have
outputs that are centred on zero (tanh): clipping limits the distance from zero, so that a constant
part of the feature map would use up the norm and carry nothing. They have few outputs, since the
noise is in each of them, and one view, since each view is another release. The learned ones are
fitted at the largest site (`sltool.site.fit_stage`); `learned-private` is the recipe `private`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sltool.accounting import noise_for
from sltool.datasets.base import IMAGE_PROTECTION, REGRESSION_PROTECTION

EPSILONS = (1, 4, 8, 16, 64)


@dataclass(frozen=True)
class Layer:
    """A privacy layer in a comparison.

    Attributes:
        keys: 'key=value' of study.yaml, over those of the case.
        clip, epsilon: if set, feature maps are clipped and get the noise at which the release of
            a training sample has this epsilon (`accounting.DELTA`); for layers with one view.
    """

    keys: tuple[str, ...] = ()
    clip: float = 1.0
    epsilon: float | None = None

    def settings(self) -> tuple[str, ...]:
        """'key=value' of study.yaml, with the clipping and noise of `epsilon`."""
        if self.epsilon is None:
            return self.keys
        noise = noise_for(self.epsilon, self.clip)
        return (*self.keys, f"encoding.clip={self.clip:g}", f"encoding.noise={noise:.6g}")


def _with_epsilons(clip: float, *keys: str) -> dict[str, Layer]:
    return {f"dp-{value}": Layer(keys, clip, value) for value in EPSILONS}


def _coded(code: str, bits: int, noise: float, views: int = 1) -> Layer:
    """A learned layer: values of `model.code`, and what ships."""
    encoding = (f"bits={bits}", f"noise={noise:g}", f"views={views}")
    return Layer((f"model.code={{{code}}}", *(f"encoding.{key}" for key in encoding)))


def _quantised(bits: int, *keys: str) -> Layer:
    """Drawn, with outputs from -1 to 1 (tanh)."""
    return Layer((*keys, f"encoding.bits={bits}", "encoding.range=[-1, 1]"))


def _private(protection: Mapping[str, Any]) -> Layer:
    """The code of the recipe `private`, and what ships."""
    code, encoding = protection["model"]["code"], protection["encoding"]
    keys = {"model.code": code, **{f"encoding.{key}": value for key, value in encoding.items()}}
    return Layer(tuple(f"{key}={json.dumps(value)}" for key, value in keys.items()))


_ROW_CODE = ("model.widths=[7, 128, 128]", "model.activation=tanh")
CHECK_UPS: Mapping[str, Layer] = {
    "random": Layer(),
    "random-7": Layer(_ROW_CODE),
    "random-narrow": Layer(("model.widths=[4, 128, 128]",)),
    "noisy-0.5": Layer(("encoding.noise=0.5",)),
    "noisy-2": Layer(("encoding.noise=2",)),
    "quantised-8": _quantised(8, *_ROW_CODE),
    "quantised-2": _quantised(2, *_ROW_CODE),
    "learned-3": _coded("channels: 3", 8, 0.2),
    "learned-1-noisy": _coded("channels: 1, widths: [64, 64]", 8, 0.1),
    "learned-private": _private(REGRESSION_PROTECTION),
    **_with_epsilons(1.3, *_ROW_CODE),
}

_TANH = ("model.activation=tanh", "model.server.activation=leaky-relu")
_WIDTHS = "widths: [16, 32, 64, 128], halve: pool"
_LEARNED_512 = _coded(f"channels: 32, size: 4, {_WIDTHS}", 1, 0, views=8)
_CT_CODE = (
    "model.cut=2",
    "model.filters=[8, 1, 64, 128, 256]",
    *_TANH,
    "model.pool=average",
    "encoding.views=1",
)
COVID_CT: Mapping[str, Layer] = {
    "random": Layer(),
    "random-1": Layer(
        (
            "model.filters=[1, 32, 64, 128, 256]",
            "model.activation=sigmoid",
            "model.server.activation=leaky-relu",
        ),
    ),
    "random-deep": Layer(_CT_CODE),
    "noisy-1": Layer(("encoding.noise=1",)),
    "noisy-4": Layer(("encoding.noise=4",)),
    "quantised-4": _quantised(4, *_TANH, "model.pool=average"),
    "quantised-1": _quantised(1, *_TANH, "model.pool=average"),
    "learned-512": _LEARNED_512,
    "learned-16": _coded(f"channels: 16, size: 1, {_WIDTHS}", 1, 0.5),
    "learned-private": _private(IMAGE_PROTECTION),
    **_with_epsilons(8.0, *_CT_CODE),
}

_XRAY_CODE = (
    "model.channels=1",
    "model.activation=tanh",
    "model.server.activation=relu",
    "model.pool=average",
    "encoding.views=1",
)
FRACATLAS: Mapping[str, Layer] = {
    "random": Layer(),
    "random-1": Layer(("model.channels=1",)),
    "noisy-1": Layer(("encoding.noise=1",)),
    "noisy-4": Layer(("encoding.noise=4",)),
    "quantised-4": _quantised(4, *_XRAY_CODE),
    "quantised-1": _quantised(1, *_XRAY_CODE),
    "learned-512": _LEARNED_512,
    "learned-private": _private(IMAGE_PROTECTION),
    **_with_epsilons(20.0, *_XRAY_CODE),
}
