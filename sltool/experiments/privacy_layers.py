"""The privacy layers that `reproduce privacy` compares, by dataset: a line for each.

All layers of a dataset share its training settings, split and seeds. Those with an epsilon have
outputs that are centred on zero (tanh): clipping limits the distance from zero, so that a constant
part of the feature map would use up the norm and carry nothing. They have few outputs, since the
noise is in each of them, and one view, since each view is another release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sltool.accounting import noise_for

EPSILONS = (1, 4, 8, 16, 64)


@dataclass(frozen=True)
class Layer:
    """A privacy layer in a comparison.

    Attributes:
        kind: random, noisy, quantised, dp or learned: its colour in the figure.
        keys: 'key=value' of study.yaml, over those of the case.
        clip, epsilon: if set, feature maps are clipped and get the noise at which the release of
            a training sample has this epsilon (`accounting.DELTA`); for layers with one view.
    """

    kind: str
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
    return {f"dp-{value}": Layer("dp", keys, clip, value) for value in EPSILONS}


CHECK_UPS: Mapping[str, Layer] = {
    "random": Layer("random"),
    "narrow": Layer("random", ("model.widths=[4, 128, 128]",)),
    "noisy-0.5": Layer("noisy", ("encoding.noise=0.5",)),
    "noisy-2": Layer("noisy", ("encoding.noise=2",)),
    **_with_epsilons(1.3, "model.widths=[7, 128, 128]", "model.activation=tanh"),
}

_CT_CODE = (
    "model.cut=3",
    "model.filters=[16, 16, 4, 128, 256]",
    "model.activation=tanh",
    "model.server.activation=leaky-relu",
    "model.pool=average",
    "encoding.views=1",
)
COVID_CT: Mapping[str, Layer] = {
    "random": Layer("random"),
    "random-1": Layer(
        "random",
        (
            "model.filters=[1, 32, 64, 128, 256]",
            "model.activation=sigmoid",
            "model.server.activation=leaky-relu",
        ),
    ),
    "deep": Layer("random", _CT_CODE),
    "noisy-1": Layer("noisy", ("encoding.noise=1",)),
    "noisy-4": Layer("noisy", ("encoding.noise=4",)),
    **_with_epsilons(5.0, *_CT_CODE),
}

_XRAY_CODE = (
    "model.cut=5",
    "model.channels=8",
    "model.activation=tanh",
    "model.server.activation=relu",
    "model.pool=average",
    "encoding.views=1",
)
FRACATLAS: Mapping[str, Layer] = {
    "random": Layer("random"),
    "random-1": Layer("random", ("model.channels=1",)),
    "noisy-1": Layer("noisy", ("encoding.noise=1",)),
    "noisy-4": Layer("noisy", ("encoding.noise=4",)),
    **_with_epsilons(5.0, *_XRAY_CODE),
}
