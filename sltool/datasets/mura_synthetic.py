"""A synthetic MURA: drawn bones in exactly MURA-v1.1's layout, to try the tool without the data."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sltool.errors import StorageError

NOTICE = "SYNTHETIC.txt"
# Sides in pixels; MURA's own are about four times as long.
SIDES = (96, 192)
# List and label of each round of examinations (one for each part of the body), repeated.
ROUNDS = (
    ("train", 0),
    ("train", 1),
    ("valid", 0),
    ("valid", 1),
    ("train", 0),
    ("train", 1),
)
FIRST_PATIENT = {"train": 1, "valid": 11185}


@dataclass(frozen=True)
class _Examination:
    list: str
    part: str
    patient: int
    index: int
    label: int

    @property
    def path(self) -> str:
        result = "positive" if self.label else "negative"
        return (
            f"{self.list}/XR_{self.part.upper()}/patient{self.patient:05d}"
            f"/study{self.index}_{result}"
        )


def write_synthetic(folder: Path, images: int, seed: int, parts: Sequence[str]) -> Path:
    """Write `folder/MURA-v1.1`, unless it exists; returns its path.

    Positive examinations show a dark gap and a bright plate across the bone. Some patients have two
    examinations, some two parts of the body; sizes differ, and three of ten images are RGB.

    Raises:
        StorageError: no space or no permission.
    """
    root = folder / "MURA-v1.1"
    part = folder.with_name(folder.name + ".part")
    if root.is_dir():
        return root
    try:
        shutil.rmtree(part, ignore_errors=True)
        _write(part / root.name, images, np.random.default_rng(seed), parts)
        part.replace(folder)
    except OSError as error:
        raise StorageError.of(error, folder) from error
    return root


def _write(root: Path, images: int, rng: np.random.Generator, parts: Sequence[str]) -> None:
    examinations = _examinations(min(images, max(4 * len(parts), images // 2)), parts)
    count = len(examinations)
    extra = rng.multinomial(images - count, [1 / count] * count)
    paths: dict[str, list[str]] = {name: [] for name in FIRST_PATIENT}
    labels: dict[str, list[str]] = {name: [] for name in FIRST_PATIENT}
    for examination, more in zip(examinations, extra, strict=True):
        (root / examination.path).mkdir(parents=True)
        labels[examination.list].append(f"MURA-v1.1/{examination.path}/,{examination.label}\n")
        for index in range(1, more + 2):
            path = f"{examination.path}/image{index}.png"
            _draw(root / path, examination.label, rng)
            paths[examination.list].append(f"MURA-v1.1/{path}\n")
    for name in FIRST_PATIENT:
        (root / f"{name}_image_paths.csv").write_text("".join(paths[name]), encoding="utf-8")
        (root / f"{name}_labeled_studies.csv").write_text("".join(labels[name]), encoding="utf-8")
    (root / NOTICE).write_text("Drawn by `sltool prepare --synthetic`.\n", encoding="utf-8")


def _examinations(count: int, parts: Sequence[str]) -> list[_Examination]:
    """Examinations in rounds over the parts.

    Every ninth has the patient of the previous one, and every eleventh the patient and the part
    of the one a round earlier.
    """
    patients = dict(FIRST_PATIENT)
    examinations: list[_Examination] = []
    for index in range(count):
        name, label = ROUNDS[index // len(parts) % len(ROUNDS)]
        part = parts[index % len(parts)]
        previous = examinations[-1] if index % 9 == 8 else None
        if index % 11 == 10 and index >= len(parts):
            previous = examinations[-len(parts)]
        if previous is None or previous.list != name:
            examinations.append(_Examination(name, part, patients[name], 1, label))
            patients[name] += 1
        else:
            patient = previous.patient
            earlier = sum(
                examination.patient == patient and examination.part == part
                for examination in examinations
            )
            examinations.append(_Examination(name, part, patient, earlier + 1, label))
    return examinations


def _draw(path: Path, label: int, rng: np.random.Generator) -> None:
    """Draw a bone on black, across the picture at a random angle."""
    from PIL import Image, ImageDraw

    width, height = rng.integers(*SIDES, size=2)
    reach, thickness = (
        int(np.hypot(width, height)),
        int(min(width, height) * rng.uniform(0.25, 0.4)),
    )
    bone = Image.new("L", (reach, reach), 10)
    pen = ImageDraw.Draw(bone)
    middle = reach // 2
    pen.rectangle((0, middle - thickness // 2, reach, middle + thickness // 2), fill=150)
    pen.rectangle((0, middle - thickness // 5, reach, middle + thickness // 5), fill=105)
    if label:
        at = middle + int(rng.integers(-reach // 8, reach // 8 + 1))
        pen.line(
            (at - 6, middle - thickness // 2, at + 6, middle + thickness // 2), fill=10, width=5
        )
        pen.rectangle((at - thickness // 2, middle - 4, at + thickness // 2, middle + 4), fill=250)
    bone = bone.rotate(float(rng.uniform(0, 180)), fillcolor=10)
    left, top = (reach - width) // 2, (reach - height) // 2
    pixels = np.asarray(bone.crop((left, top, left + width, top + height)), dtype=np.float32)
    pixels = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255)
    picture = Image.fromarray(pixels.astype(np.uint8))
    (picture.convert("RGB") if rng.random() < 0.3 else picture).save(path)
