"""A shard's manifest, its signature, and the user block with both.

The user block is the first 4096 bytes of the file (docs/shard-format.md):

    sltool-shard FORMAT \\n
    the manifest as canonical JSON \\n
    ed25519:BASE64 of the signature over the manifest's bytes \\n
    zero bytes to the end
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from sltool.errors import ShardRefusedError
from sltool.files import canonical_json
from sltool.study.schema import Levels, Section, SiteName, Study

USER_BLOCK = 4096
# Limits of a shard, so that a malicious one takes bounded time and memory.
MAX_PAYLOAD = 5 * 2**28
MAX_SAMPLES = 2**20
# What a shard holds at most by default, in bytes of feature maps.
SHARD_BYTES = 256 * 2**20
# Format 2 is that of quantised feature maps.
MAGICS = {1: b"sltool-shard 1", 2: b"sltool-shard 2"}
# The `split` of a shard of cases without labels, which are to be predicted.
PREDICTION = "prediction"

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(gt=0, lt=2**40)]


class Noise(Section):
    """The site's protection against reconstruction: greatest L2 norm, and noise's sd."""

    clip: float | None
    sd: float


class Payload(Section):
    """All bytes after the user block."""

    bytes: int = Field(gt=0, le=MAX_PAYLOAD)
    sha256: Digest


class Content(Section):
    """Type and shape of a shard's rows; the same for all shards of an encoding and split.

    The `views` feature maps of a sample are consecutive rows. With a `scale`, feature maps are
    quantised, and a row is `row_bytes` bytes of packed values (`sltool.shard.packing`).
    """

    study: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    encoding: Digest
    feature_shape: tuple[Count, ...]
    dtype: Literal["float16", "float32", "uint8"]
    scale: Levels | None = None
    views: Count
    label: Literal["regression", "binary", "multiclass"]
    classes: int = Field(ge=0)
    noise: Noise

    @model_validator(mode="after")
    def _bytes_are_quantised(self) -> Content:
        if (self.dtype == "uint8") != (self.scale is not None):
            raise ValueError("exactly quantised feature maps are bytes")
        return self

    @property
    def format(self) -> Literal[1, 2]:
        """The version of the shard format."""
        return 1 if self.scale is None else 2

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row in the file: `feature_shape`, or (bytes,) if it is quantised."""
        if self.scale is None:
            return self.feature_shape
        return (self.scale.packed_bytes(math.prod(self.feature_shape)),)

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample's feature maps, all views together."""
        itemsize = {"float16": 2, "float32": 4, "uint8": 1}[self.dtype]
        return math.prod(self.row_shape) * itemsize * self.views

    @classmethod
    def from_study(cls, study: Study, digest: str, feature_shape: tuple[int, ...]) -> Content:
        """The content of this study's training shards."""
        return cls(
            study=study.id,
            encoding=digest,
            feature_shape=feature_shape,
            dtype=study.encoding.dtype if study.encoding.levels is None else "uint8",
            scale=study.encoding.levels,
            views=study.encoding.views,
            label=study.samples.labels.kind,
            classes=len(study.samples.labels.classes),
            noise=Noise(clip=study.encoding.clip, sd=study.encoding.noise),
        )

    def for_split(self, split: str) -> Content:
        """The content of a shard of `split`: only training samples have several views."""
        return self if split == "train" else self.model_copy(update={"views": 1})


class ShardId(Section):
    """Which shard of a site this is."""

    site: SiteName
    split: Literal["train", "validation", "test", "prediction"]
    sequence: int = Field(ge=0, lt=100_000)

    @property
    def name(self) -> str:
        """The shard's file name."""
        return f"{self.site}-{self.split}-{self.sequence:05d}.h5"


def _check_printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("has unprintable characters, or spaces at the start or end")
    return text


Explanation = Annotated[
    str, StringConstraints(min_length=1, max_length=200), AfterValidator(_check_printable)
]


class AcceptedRisk(Section):
    """Why a shard was shipped although it violates the study's `privacy` section.

    Attributes:
        reason: the site's explanation.
        refusal: the requirement of the study that was not met.
    """

    reason: Explanation
    refusal: Explanation


class Manifest(Section):
    """Everything that the signature covers; the payload is covered by its digest.

    The key `accepted_risk` is left out of the file if it is None.
    """

    format: Literal[1, 2]
    content: Content
    place: ShardId
    previous: Digest | None
    samples: int = Field(gt=0, le=MAX_SAMPLES)
    key: str
    tool: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]
    payload: Payload
    accepted_risk: AcceptedRisk | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Manifest:
        if self.format != self.content.format:
            raise ValueError("exactly quantised feature maps are of format 2")
        if (self.previous is None) != (self.place.sequence == 0):
            raise ValueError("exactly shard 0 has no previous shard")
        if self.samples > 1 and self.samples * self.content.sample_bytes > MAX_PAYLOAD:
            raise ValueError("too many samples for one shard")
        return self

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        left_out = {"accepted_risk"} if self.accepted_risk is None else set()
        return canonical_json(self.model_dump(mode="json", exclude=left_out))

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest: the shard's identity, which the next shard refers to."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def pack(manifest: Manifest, signature: str) -> bytes:
    """The user block, `USER_BLOCK` bytes."""
    block = b"\n".join(
        [MAGICS[manifest.format], manifest.to_bytes(), signature.encode("ascii"), b""]
    )
    if len(block) > USER_BLOCK:
        raise ValueError(f"the manifest takes {len(block)} of {USER_BLOCK} bytes")
    return block.ljust(USER_BLOCK, b"\0")


def unpack(block: bytes) -> tuple[Manifest, str]:
    """The manifest and the signature of a user block, neither of them trusted yet.

    Raises:
        ShardRefusedError: the block differs from the output of `pack`.
    """
    lines = block.split(b"\n", 3)
    if len(block) != USER_BLOCK or lines[0] not in MAGICS.values() or len(lines) != 4:
        raise ShardRefusedError(
            "the file does not begin like a shard",
            expected=f"'{MAGICS[1].decode()}' or '{MAGICS[2].decode()}' on its first line",
        )
    try:
        manifest = Manifest.model_validate_json(lines[1])
        signature = lines[2].decode("ascii")
    except (ValidationError, UnicodeDecodeError) as error:
        raise ShardRefusedError("the manifest breaks the format") from error
    if pack(manifest, signature) != block:
        raise ShardRefusedError("the user block is not in canonical form")
    return manifest, signature
