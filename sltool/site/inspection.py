"""`inspect`: a shard for people who know nothing of HDF5, beside the originals where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import StageOrderError
from sltool.files import publish, read_json, remove, write_text
from sltool.models.privacy_layer_file import feature_shape
from sltool.page import render
from sltool.shard.description import ShardDescription, describe_shard
from sltool.shard.encryption import SUFFIX as AGE
from sltool.shard.encryption import decrypt
from sltool.shard.manifest import PREDICTION, Content, Manifest
from sltool.shard.payload import Rows
from sltool.site.audit.record import DAMAGED, AuditRecord
from sltool.site.pictures import image_of, planes, png_base64, png_bytes, stretched
from sltool.site.private_file import open_private
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from sltool.study.study_file import load_study

SAMPLES = 8
CHANNELS = 8
TILE = 96
GAP = 6
NOT_CONTAINED = (
    "names, dates of birth, addresses, record numbers: only the hospital has the table from "
    "pseudonym to patient, sites/SITE/pseudonyms.csv",
    "the images or records themselves",
    "file names, dates and image headers, such as those of DICOM",
    "where and how the hospital keeps its data",
)
NO_ROOM = "anything else: every byte belongs to one of the four lists, or has its only legal value"
STILL = (
    "It is pseudonymised personal data all the same: whoever has the file may try to reconstruct "
    "samples from it. `sltool audit` measures how well that works."
)


@dataclass(frozen=True)
class Inspection:
    """A shard, and what this folder knows of it.

    Attributes:
        study: None where there is no study.yaml.
        originals: of the samples in `shard.features.shown`, row by row as the source has them;
            None where they are not in this folder.
        audit: what the audit of these very bytes found, or why there is nothing to say.
    """

    shard: ShardDescription
    study: Study | None
    originals: NDArray[Any] | None
    audit: str

    @property
    def not_contained(self) -> list[str]:
        """What the file does not contain."""
        site = self.shard.manifest.place.site
        texts = [text.replace("SITE", site) for text in NOT_CONTAINED]
        return [*texts, NO_ROOM] if self.shard.rows is not None else texts

    @property
    def labels(self) -> dict[str, float]:
        """Class -> number of samples; of a regression, figures of the values; {} of cases."""
        if self.shard.rows is None or self.shard.manifest.place.split == PREDICTION:
            return {}
        return _labels(self.shard.rows, self.shard.manifest, self.study)


def inspect(folder: StudyFolder, path: Path, identity: Path | None = None) -> Inspection:
    """Look into a shard.

    Args:
        identity: the server's age identity, for an encrypted file; by default `server/identity`.

    Raises:
        ShardRefusedError: the file does not begin like a shard.
        StageOrderError: it is encrypted, and the identity is not here.
        UnreadableError: it does not exist, or may not be read.
    """
    study = load_study(folder) if folder.study_file.is_file() else None
    with _plain(folder, path, identity or folder.identity) as plain:
        shard = describe_shard(plain, study, _expected(folder, study), SAMPLES)
    return Inspection(shard, study, _originals(folder, study, shard), _audit(folder, shard))


def _expected(folder: StudyFolder, study: Study | None) -> Content | None:
    if study is None or not folder.privacy_layer.is_file():
        return None
    digest = study.encoding_digest(folder.privacy_layer)
    return Content.from_study(study, digest, feature_shape(folder.privacy_layer, study))


@contextmanager
def _plain(folder: StudyFolder, path: Path, identity: Path) -> Iterator[Path]:
    """The file itself, or a private decrypted copy while the context lasts."""
    if path.suffix != AGE:
        yield path
        return
    if not identity.is_file():
        raise StageOrderError(
            "the file is encrypted, and only the server can read it",
            where=path,
            expected=f"the server's identity in {identity}",
            hint="inspect it at the server, or give --identity FILE; a site looks into the same "
            "shard in its outbox, where it is not encrypted",
        )
    plain = folder.root / f".inspected-{os.getpid()}.h5"
    decrypt(path, plain, identity)
    try:
        yield plain
    finally:
        remove(plain)


def _originals(
    folder: StudyFolder, study: Study | None, shard: ShardDescription
) -> NDArray[Any] | None:
    if study is None or shard.rows is None or shard.features is None:
        return None
    private = folder.site(shard.manifest.place.site).private
    if not private.is_file():
        return None
    wanted = [text.decode("ascii") for text in shard.rows.pseudonyms[shard.features.shown].tolist()]
    with open_private(private, study.id, "sltool partition") as file:
        row_of = {pseudonym: row for row, pseudonym in enumerate(file.text("pseudonyms"))}
        if not all(pseudonym in row_of for pseudonym in wanted):
            # The site was partitioned anew since.
            return None
        inputs = file.inputs
        return np.stack([np.asarray(inputs[row_of[pseudonym]]) for pseudonym in wanted])


def _audit(folder: StudyFolder, shard: ShardDescription) -> str:
    place = shard.manifest.place
    accepted = shard.manifest.accepted_risk
    risk = f"; shipped at the site's own risk: {accepted.reason}" if accepted else ""
    site = folder.site(place.site)
    if not site.private_dir.is_dir():
        return f"the site's audit stays at the site{risk}"
    if not site.audit.is_file():
        return f"not audited yet: `sltool audit --site {place.site}`{risk}"
    if place.split == PREDICTION:
        return f"cases are judged by the audit of the training shards, of the same layer{risk}"
    record = read_json(site.audit, AuditRecord, "the audit", DAMAGED)
    if record["bound"]["payloads"].get(place.name) != shard.manifest.payload.sha256:
        return f"the audit is of another file: `sltool audit --site {place.site}`{risk}"
    leak = record["leak"]
    return (
        f"leak {leak['value']:.2f} ({leak['low']:.2f} to {leak['high']:.2f}) on the scale from "
        f"the average patient (0) to the original (1); strongest attacker {record['attack']}, "
        f"budget {record['budget']}{risk}"
    )


def _labels(rows: Rows, manifest: Manifest, study: Study | None) -> dict[str, float]:
    if manifest.content.label == "regression":
        values = rows.labels.astype(np.float64)
        return {
            "mean": float(values.mean()),
            "sd": float(values.std()),
            "lowest": float(values.min()),
            "highest": float(values.max()),
        }
    known = study.samples.labels.classes if study else ()
    counts = np.bincount(rows.labels, minlength=manifest.content.classes).tolist()
    names = known if len(known) == len(counts) else [f"class {code}" for code in range(len(counts))]
    return dict(zip(names, counts, strict=True))


def tiles(found: Inspection, index: int, channels: int = CHANNELS) -> list[tuple[str, Any]]:
    """Title and picture, (C, H, W) from 0 to 1, of a shown sample: the original, then channels."""
    features = found.shard.features
    assert features is not None
    shown = planes(features.maps[index], channels)
    named = [(f"channel {number}", plane) for number, plane in enumerate(shown, 1)]
    if found.originals is None:
        return named
    original = found.originals[index]
    whole = original[None, None] if original.ndim == 1 else original
    return [("original", stretched(whole.astype(np.float32))), *named]


def write_png(found: Inspection, path: Path) -> None:
    """Publish a picture: a row for each shown sample, the original first where it is known."""
    from PIL import Image

    grid = [[image_of(tile, TILE) for _, tile in tiles(found, row)] for row in _shown(found)]
    heights = [max(image.height for image in images) for images in grid]
    width = max(len(images) for images in grid) * (TILE + GAP) + GAP
    canvas = Image.new("RGB", (width, sum(heights) + GAP * (len(grid) + 1)), "white")
    top = GAP
    for images, height in zip(grid, heights, strict=True):
        for column, image in enumerate(images):
            canvas.paste(image, (GAP + column * (TILE + GAP), top))
        top += height + GAP
    with publish(path) as part:
        part.write_bytes(png_bytes(canvas))


def write_page(found: Inspection, path: Path, facts: Sequence[tuple[str, str]]) -> None:
    """Publish a page with the facts and the pictures.

    Args:
        facts: title and text, as they are printed.
    """
    cases = [
        [(title, png_base64(image_of(tile))) for title, tile in tiles(found, row)]
        for row in _shown(found)
    ]
    content = {
        "title": f"What is in {found.shard.manifest.place.name}",
        "facts": facts,
        "not_contained": found.not_contained,
        "still": STILL,
        "cases": cases,
        "with_originals": found.originals is not None,
    }
    write_text(path, render("sltool.site", "inspection.html", content))


def _shown(found: Inspection) -> range:
    if found.shard.features is None:
        # Nothing can be shown of it; the reason is that of the check that did not pass.
        assert found.shard.error is not None
        raise found.shard.error
    return range(len(found.shard.features.shown))
