"""The schema of study.yaml, the agreement of all sites and the server.

The schema below is also the reference: each field's description becomes the comment in study.yaml
and the row in docs/study-file.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from sltool.errors import StageOrderError, UnknownNameError, UsageError
from sltool.files import canonical_json, sha256
from sltool.names import SITE_NAME, is_reserved

SPLITS = ("train", "validation", "test")


def _check_no_device(name: str) -> str:
    if is_reserved(name):
        raise ValueError("is a reserved device name on some systems")
    return name


SiteName = Annotated[str, StringConstraints(pattern=SITE_NAME), AfterValidator(_check_no_device)]
PublicKey = Annotated[str, StringConstraints(pattern=r"^ed25519:[A-Za-z0-9+/]{43}=$")]
Recipient = Annotated[str, StringConstraints(pattern=r"^age1[02-9ac-hj-np-z]{58}$")]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of study.yaml: no unknown keys, no infinities, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Choice(Section):
    """A registered name and its settings, which the registered class checks (`settings_of`)."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str = Field(description="As in `sltool list`.")

    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Code(Section):
    """A privacy layer that ends in a short code; its values are from -1 to 1."""

    channels: int = Field(gt=0, description="Channels of the code of an image; values of a row.")
    size: int = Field(
        default=4, gt=0, description="Height and width of the code of an image; not for tables."
    )
    widths: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(),
        description="Channels of the convolutions before the code, of which each halves an image "
        "until it has `size`; units of the dense layers before it.",
    )
    halve: Literal["stride", "pool"] = Field(
        default="stride",
        description="How a convolution halves an image: stride (a stride of 2: fewer "
        "multiplications) or pool (max pooling behind it: more accurate); not for tables.",
    )

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(dump(self), ("halve",) if self.halve == "stride" else ())


class ModelChoice(Choice):
    """The network; `code` is left out of records and digests if it is not set."""

    cut: int = Field(
        default=1,
        ge=0,
        description="How many hidden layers are at the site. 0 ships the input itself: "
        "only for comparisons.",
    )
    code: Code | None = Field(
        default=None,
        description="A first hidden layer that `sltool fit-privacy-layer` fits: channels, size, "
        "widths and halve. The model's own layers follow it at the server; null: the model's own "
        "layers.",
    )

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(dump(self), ("code",) if self.code is None else ())


class Labels(Section):
    kind: Literal["regression", "binary", "multiclass"] = Field(
        description="What is predicted: regression, binary or multiclass."
    )
    classes: tuple[str, ...] = Field(
        default=(),
        description="Class names in the order of the class indices; the last is positive.",
    )
    unit: str = Field(default="", description="The unit of a regression label.")
    mean: float = Field(
        default=0.0, description="Regression: the server predicts (label - mean) / sd."
    )
    sd: Positive = Field(default=1.0, description="Agreed on, never computed from private data.")

    @model_validator(mode="after")
    def _classes_fit(self) -> Labels:
        count = len(self.classes)
        fits = {"regression": count == 0, "binary": count == 2, "multiclass": count >= 3}
        if not fits[self.kind]:
            raise ValueError(f"{self.kind} labels cannot have {count} classes")
        return self

    @property
    def outputs(self) -> int:
        """The size of the server network's output for a sample."""
        return len(self.classes) if self.kind == "multiclass" else 1


class Samples(Section):
    """A prepared sample's shape, standardisation and labels; `prepare` writes this section."""

    shape: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        description="(channels, height, width) of an image or (columns,) of a table row."
    )
    mean: tuple[float, ...] = Field(
        description="Standardisation, for each channel or column: the network gets (x - mean) / sd."
    )
    sd: tuple[Positive, ...] = Field(description="Agreed on, never computed from private data.")
    labels: Labels = Field(description="The labels.")

    @model_validator(mode="after")
    def _check_lengths(self) -> Samples:
        if not len(self.mean) == len(self.sd) == self.shape[0]:
            raise ValueError(f"mean and sd need {self.shape[0]} values each")
        return self


# The keys of `training` that may follow from the number of samples.
SIZED_KEYS = ("epochs", "batch_size")


class Recipe(Section):
    """The recipe that filled in a new study.yaml; see `sltool.coordinator.recipes`."""

    name: str = Field(default="", description="As in `sltool prepare --recipe`.")
    sized: tuple[Literal["epochs", "batch_size"], ...] = Field(
        default=(),
        description="Keys of `training` that follow from `samples`, by the rules stated there.",
    )
    samples: Annotated[int, Field(gt=0)] | None = Field(
        default=None,
        description="The number of training samples that they fit. null: not counted yet, the "
        "first `prepare` fills it in.",
    )


class Split(Section):
    validation: Fraction = Field(
        default=0.1, description="Share of all samples for choosing the best epoch."
    )
    test: Fraction = Field(default=0.1, description="Share of all samples for the final figures.")
    official: bool = Field(
        default=False, description="Use the source's own split lists where it has them."
    )


class Augment(Section):
    """Random changes of a training image; each is drawn from a uniform distribution."""

    flip: bool = Field(default=True, description="Swap left and right in half of the versions.")
    rotation: float = Field(
        default=10.0, ge=0, le=180, description="Greatest rotation in degrees, in either direction."
    )
    crop: Fraction = Field(
        default=0.1,
        description="Greatest share of the height and width that is cropped before resizing.",
    )
    brightness: Fraction = Field(
        default=0.1, description="Values are multiplied by 1 - this to 1 + this."
    )


Bits = Literal[1, 2, 4, 8]


class Levels(Section):
    """Quantisation: 2 ** bits levels at equal distances, from `low` to `high`."""

    bits: Bits
    low: float
    high: float

    @model_validator(mode="after")
    def _is_range(self) -> Levels:
        if not self.low < self.high:
            raise ValueError("the lowest level has to be below the highest")
        return self

    @property
    def step(self) -> float:
        """The distance between two levels."""
        return (self.high - self.low) / (2**self.bits - 1)

    def packed_bytes(self, values: int) -> int:
        """Bytes of a feature map of this many values."""
        return -(-values * self.bits // 8)


class Encoding(Section):
    """How feature maps are computed; without `bits`, records and digests have no quantisation."""

    dtype: Literal["float16", "float32"] = Field(
        default="float16",
        description="Data type of shipped feature maps without `bits`: float16 or float32.",
    )
    bits: Bits | None = Field(
        default=None,
        description="Bits of each shipped value, after clipping and noise: 8, 4, 2 or 1 (which of "
        "the two ends of `range` is nearer: with -1 to 1 the sign); null: a number of type "
        "`dtype`.",
    )
    range: tuple[float, float] = Field(
        default=(-1.0, 1.0),
        description="The lowest and highest level of quantised values; others are clamped. Agreed "
        "on, never computed from private data.",
    )
    clip: Positive | None = Field(
        default=None, description="Greatest L2 norm of one sample's feature map; null: no limit."
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        description="Standard deviation of the Gaussian noise added at the site, in feature units; "
        "drawn anew for every encoding.",
    )
    label_epsilon: Positive | None = Field(
        default=None,
        description="Epsilon of the labels, which are randomised at the site, once for each "
        "record; the server's loss is corrected for it. Classes only; null: shipped unchanged.",
    )
    views: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Feature maps of each training image: of the image itself and views - 1 random "
        "versions of it. The server draws one in each epoch. Other images have one.",
    )
    augment: Augment = Field(
        default=Augment(), description="Changes in a random version; not used with views: 1."
    )

    @model_validator(mode="after")
    def _range_rises(self) -> Encoding:
        if not self.range[0] < self.range[1]:
            raise ValueError("encoding.range: the first value has to be below the second")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        absent = ("bits", "range") if self.bits is None else ()
        return _without(
            dump(self), absent if self.label_epsilon is not None else (*absent, "label_epsilon")
        )

    @property
    def levels(self) -> Levels | None:
        """The quantisation of feature maps; None: they are not quantised."""
        if self.bits is None:
            return None
        return Levels(bits=self.bits, low=self.range[0], high=self.range[1])


def _without(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Without keys that later versions added, so that digests of earlier ones stay valid."""
    return {name: value for name, value in values.items() if name not in keys}


class FeatureAugment(Section):
    """Random changes of a training sample's feature map at the server; 0: none."""

    flip: Share = Field(
        default=0.0, description="Probability that left and right are swapped. Only of images."
    )
    shift: Share = Field(
        default=0.0,
        description="Greatest shift, as a share of the height and width; edges repeat. Only of "
        "images.",
    )
    crop: Fraction = Field(
        default=0.0,
        description="Greatest share of the height and width that is cropped before resizing. Only "
        "of images.",
    )
    erase: Share = Field(
        default=0.0,
        description="Probability that a random rectangle, 2 to 40 % of the map, is replaced by the "
        "mean of its channel (random erasing, arXiv 1708.04896). Only of images.",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        description="Two samples and their labels are mixed with a share drawn from "
        "Beta(this, this) (mixup, arXiv 1710.09412). Usual: 0.2.",
    )
    cutmix: float = Field(
        default=0.0,
        ge=0,
        description="A rectangle comes from another sample, and so does its share of the label, "
        "drawn from Beta(this, this) (CutMix, arXiv 1905.04899). Usual: 1. With mixup, each step "
        "draws one of the two. Only of images.",
    )

    def spatial_keys(self) -> list[str]:
        """The keys in use that need feature maps with height and width."""
        return [name for name in type(self).model_fields if name != "mixup" and getattr(self, name)]


class Training(Section):
    """Settings of the server alone, which may change without a new encoding."""

    epochs: int = Field(default=100, gt=0, description="Passes over all training samples.")
    batch_size: int = Field(default=64, gt=0, description="Samples in each step.")
    loss: Literal["auto", "mse", "mae", "huber", "cross-entropy"] = Field(
        default="auto",
        description="auto: mse for regression, (binary) cross-entropy for classes.",
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        default="adam", description="adam, adamw or sgd (momentum 0.9)."
    )
    learning_rate: Positive = Field(
        default=1e-3, description="The highest learning rate of the schedule."
    )
    schedule: Literal["constant", "cosine", "one-cycle"] = Field(
        default="constant", description="Learning rate over the steps of the run."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="L2 penalty or decoupled decay.")
    clip_gradient: Positive | None = Field(
        default=None, description="Greatest L2 norm of a step's gradient; null: no limit."
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none",
        description="balanced: a rare class has the same weight as a frequent one. Classes only.",
    )
    label_smoothing: Fraction = Field(
        default=0.0, description="Share of a label that is spread over all classes. Classes only."
    )
    patience: Annotated[int, Field(gt=0)] | None = Field(
        default=None,
        description="Early stopping: epochs without a lower validation loss; null: never.",
    )
    augment: FeatureAugment = Field(
        default=FeatureAugment(),
        description="Random changes of feature maps in each step, beside the views that the sites "
        "ship (`encoding.views`).",
    )


class Enrolment(Section):
    key: PublicKey = Field(description="The site's Ed25519 public key.")
    revoked: date | None = Field(default=None, description="From this day the key is not trusted.")


class Site(Enrolment):
    earlier: tuple[Enrolment, ...] = Field(
        default=(), description="Former keys: shards that were accepted with them stay valid."
    )
    recipient: Recipient | None = Field(
        default=None,
        description="From `sltool enroll --encrypt`: `predict` encrypts predictions for the site.",
    )
    left: date | None = Field(
        default=None,
        description="From this day the site takes no part: the server accepts no shard of it, and "
        "trains and evaluates without those that it has.",
    )

    @property
    def has_left(self) -> bool:
        return self.left is not None and date.today() >= self.left


class Server(Section):
    recipient: Recipient | None = Field(
        default=None, description="From `sltool server-keys`: `ship` encrypts files for it."
    )
    key: PublicKey | None = Field(
        default=None,
        description="From `sltool server-keys`: the Ed25519 public key that the server signs "
        "predictions with.",
    )


class Privacy(Section):
    """Limits for the figures in `audit.json`; `ship` refuses if a figure exceeds its limit."""

    max_leak: Share | None = Field(
        default=None,
        description="Greatest leak, from 0 (the strongest attacker reconstructs only the average "
        "patient) to 1 (the picture; tables: all of the variance); null: no limit.",
    )
    max_linkage: Share | None = Field(
        default=None,
        description="Greatest rate of linking two views of the same patient; null: no limit.",
    )
    max_exact_recovery: Share | None = Field(
        default=None, description="Greatest share of samples recovered exactly; null: no limit."
    )
    audit: Literal["quick", "thorough"] | None = Field(
        default=None,
        description="The audit that is required before `ship`: quick or thorough; null: quick "
        "if there is a limit, else none.",
    )

    @property
    def is_set(self) -> bool:
        """Whether `ship` requires an audit."""
        return self != Privacy()


class Study(Section):
    format: Literal[1] = Field(default=1, description="Version of this file's layout.")
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] = Field(
        description="The study's id, which every shard contains."
    )
    recipe: Recipe = Field(
        default=Recipe(), description="Where the values of a new file come from."
    )
    dataset: Choice = Field(description="The source of the samples and their preparation.")
    samples: Samples = Field(
        description="A prepared sample. Written by `prepare`; the server reads it too."
    )
    split: Split = Field(default=Split(), description="Used by `partition`.")
    model: ModelChoice = Field(description="The network, and the layer after which it is cut.")
    encoding: Encoding = Field(
        default=Encoding(), description="How `client-encode` computes feature maps."
    )
    training: Training = Field(
        default=Training(),
        description="Settings of `server-train`. May change at any time without a new encoding.",
    )
    privacy: Privacy = Field(
        default=Privacy(),
        description="Limits for attacks on the feature maps, as measured by `sltool audit`.",
    )
    server: Server = Field(default=Server(), description="How files are sent to the server.")
    sites: dict[SiteName, Site] = Field(
        default={}, description="The sites and their public keys; `partition` adds them."
    )

    @model_validator(mode="after")
    def _views_are_of_images(self) -> Study:
        if self.encoding.views > 1 and len(self.samples.shape) != 3:
            raise ValueError("encoding.views has to be 1: only images have random versions")
        return self

    @model_validator(mode="after")
    def _augmented_are_images(self) -> Study:
        if len(self.samples.shape) != 3 and (keys := self.training.augment.spatial_keys()):
            raise ValueError(
                f"training.augment.{keys[0]} has to be 0: only images have height and width; a "
                "table takes mixup"
            )
        return self

    @model_validator(mode="after")
    def _responses_are_classes(self) -> Study:
        if self.encoding.label_epsilon is not None and self.samples.labels.kind == "regression":
            raise ValueError(
                "encoding.label_epsilon is for classes: a randomised response is one of a few "
                "answers, which a regression label is not; leave the key out, and take into "
                "account that the labels are shipped unchanged"
            )
        return self

    @model_validator(mode="after")
    def _sites_differ(self) -> Study:
        seen: dict[str, str] = {}
        for name in self.sites:
            if (other := seen.setdefault(name.lower(), name)) != name:
                raise ValueError(f"sites: {other} and {name} are the same folder on some systems")
        return self

    def encoding_digest(self, privacy_layer: Path) -> str:
        """Hex SHA-256 of `meaning`, with the same errors."""
        return digest_of(self.meaning(privacy_layer))

    def meaning(self, privacy_layer: Path) -> dict[str, Any]:
        """Everything that changes the meaning of a feature map.

        These are the study's id, dataset, samples, model (without its `server` settings), encoding
        and the SHA-256 of `privacy-layer.safetensors`.

        Raises:
            StageOrderError: the privacy layer's weights are missing.
        """
        if not privacy_layer.is_file():
            raise StageOrderError(
                "the privacy layer's weights are missing",
                where=privacy_layer,
                hint="run `sltool prepare`, or copy the file that came with study.yaml",
            )
        return {
            "study": self.id,
            "dataset": self.dataset.model_dump(mode="json"),
            "samples": self.samples.model_dump(mode="json"),
            "model": self.layer_settings(),
            "encoding": self.encoding.model_dump(mode="json"),
            "privacy_layer": sha256(privacy_layer),
        }

    def agreement(self, privacy_layer: Path) -> dict[str, str]:
        """Part of the study -> hex SHA-256: the version of what all parties have agreed on.

        The parts are those of `meaning`, and `split`, `privacy` and `server`. Not among them are
        `sites`, `training` and `model.server`, which may change at any time.

        Raises:
            StageOrderError: the privacy layer's weights are missing.
        """
        # A key that a later version adds must not make another agreement of the same file.
        others = self.model_dump(mode="json", exclude_defaults=True)
        agreed = {name: others.get(name, {}) for name in ("split", "privacy", "server")}
        parts = {**self.meaning(privacy_layer), **agreed}
        return {
            name: hashlib.sha256(canonical_json(part)).hexdigest() for name, part in parts.items()
        }

    def layer_settings(self) -> dict[str, Any]:
        """The `model` section as JSON, without the settings of the server network alone."""
        model = self.model.model_dump(mode="json")
        model.pop("server", None)
        return model

    def left_sites(self) -> list[str]:
        """The sites that no longer take part."""
        return [name for name, site in self.sites.items() if site.has_left]

    def check_sites(self, names: Iterable[str]) -> None:
        """Raise `UnknownNameError` unless every name is a site of this study."""
        for name in names:
            if name not in self.sites:
                raise UnknownNameError.of(
                    "site", name, self.sites, hint="see `sites:` in study.yaml"
                )

    def check_taking_part(self, names: Iterable[str]) -> None:
        """As `check_sites`; raises `UsageError` for a site that left the study."""
        names = list(names)
        self.check_sites(names)
        for name in names:
            if self.sites[name].has_left:
                raise UsageError(
                    f"site {name} left the study on {self.sites[name].left}",
                    where=f"study.yaml, sites.{name}.left",
                    hint="name other sites; runs from before are in server/runs as they were",
                )


def digest_of(meaning: Mapping[str, Any]) -> str:
    """The encoding digest of a `Study.meaning`, or the digest of a `Study.agreement`."""
    return hashlib.sha256(canonical_json(meaning)).hexdigest()
