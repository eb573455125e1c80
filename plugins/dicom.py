"""A plug-in: DICOM files, as they come from a hospital's archive (pip install "sltool[dicom]").

What stands in a file is followed as the standard says (PS3.3): rescale slope and intercept or the
modality's table (C.11.1), the window or VOI table (C.11.2), MONOCHROME1 (C.7.6.3.1.2), and for
enhanced multi-frame files their functional groups (C.7.6.16).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from sltool.datasets.base import Dataset, Refused, Scan, UnreadableSampleError, image_samples
from sltool.datasets.images import Decode, fit
from sltool.errors import BadDataError, UsageError
from sltool.registry import datasets
from sltool.study.schema import Positive, Samples, Section

# What pydicom and its decoders raise for a file that breaks the standard.
BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OSError)
BROKEN += (EOFError, struct.error)
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
TABLE = "labels.csv"


@dataclass(frozen=True)
class Frame:
    """One picture of a file, and whose it is."""

    path: Path
    index: int
    label: int
    patient: str
    examination: str


@datasets.register("dicom")
class Dicom(Dataset):
    """DICOM files of any modality, with a folder per class or a table of labels."""

    class Settings(Section):
        size: int = Field(default=224, ge=8, description="Height and width in pixels.")
        pad: bool = Field(
            default=True, description="Keep the aspect ratio by padding, instead of stretching."
        )
        classes: dict[str, str] = Field(
            default={"negative": "negative", "positive": "positive"},
            min_length=2,
            description="Class name -> its folder in the source, or its label in the table; the "
            "last of two is the positive one.",
        )
        labels: str | None = Field(
            default=None,
            description="A CSV file in the source with the columns `file` (a path in the source) "
            "and `label`. null: a folder per class.",
        )
        window: tuple[float, Positive] | None = Field(
            default=None,
            description="Centre and width of the grey values, after rescaling, for all files "
            "([40, 400] for soft tissue in CT). null: as each file says, else its full range.",
        )
        frames: Literal["all", "middle"] = Field(
            default="all", description="Of a file with several pictures: all, or the middle one."
        )
        burned_in: bool = Field(
            default=False,
            description="Take files, too, that say that a name is burned into the picture.",
        )

    recipe: ClassVar[Mapping[str, Any]] = {
        "model": {"name": "vgg19"},
        "training": {"epochs": 50, "batch_size": 128},
    }
    source_help = (
        "a folder with a folder of DICOM files for each class, or a folder of DICOM files with "
        "labels.csv (columns: file, label)"
    )

    settings: Settings

    @classmethod
    def infer_settings(cls, source: Path | None) -> tuple[dict[str, Any], list[str]]:
        if source is None or not source.is_dir():
            return {}, []
        if (source / TABLE).is_file():
            names = sorted(set(_table(source / TABLE)["label"]))
            found: dict[str, Any] = {"labels": TABLE}
        else:
            names = sorted(path.name for path in source.iterdir() if path.is_dir())
            found = {}
        if len(names) < 2:
            return found, []
        note = f"the classes are {', '.join(names)}, in this order (dataset.classes)"
        return {**found, "classes": {name: name for name in names}}, [note]

    def samples(self) -> Samples:
        classes = tuple(self.settings.classes)
        return image_samples((1, self.settings.size, self.settings.size), classes)

    def scan(self, source: Path | None) -> Scan:
        source = self.need_source(source)
        headers = _Headers(source, self.settings)
        by_table = self.settings.labels is not None
        files = self._labelled(source, headers.refused) if by_table else self._in_folders(source)
        frames = [frame for path, label in files for frame in headers.frames(path, label)]
        return Scan(
            inputs=lambda number: self._load(frames[number]),
            labels=np.array([frame.label for frame in frames], dtype=np.int64),
            records=[f"{one.path.relative_to(source)}#{one.index + 1}" for one in frames],
            groups=[frame.patient for frame in frames],
            examinations=[frame.examination for frame in frames],
            refused=headers.refused,
            notes=headers.notes(),
        )

    def _in_folders(self, source: Path) -> Iterator[tuple[Path, int]]:
        for number, folder in enumerate(self.settings.classes.values()):
            if not (source / folder).is_dir():
                raise BadDataError(
                    f"the class folder '{folder}' is missing",
                    where=source,
                    expected=self.source_help,
                    hint="name the folders under dataset.classes in study.yaml; a hospital that "
                    "has no such cases makes an empty folder for them",
                )
            for path in sorted((source / folder).rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    yield path, number

    def _labelled(self, source: Path, refused: list[Refused]) -> Iterator[tuple[Path, int]]:
        numbers = {label: number for number, label in enumerate(self.settings.classes.values())}
        table = _table(source / str(self.settings.labels))
        for file, label in zip(table["file"], table["label"], strict=True):
            path = source / file
            if not path.is_file() or not path.resolve().is_relative_to(source.resolve()):
                refused.append(Refused(file, f"{self.settings.labels} names it, but there is none"))
            elif label not in numbers:
                refused.append(Refused(file, f"its label '{label}' is none of dataset.classes"))
            else:
                yield path, numbers[label]

    def _load(self, frame: Frame) -> NDArray[np.uint8]:
        """(1, size, size), black 0 and white 255."""
        from PIL import Image

        try:
            grey = _grey(frame, self.settings.window)
        except BROKEN as error:
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            raise UnreadableSampleError(f"its picture cannot be decoded: {reason}") from error
        size = self.settings.size
        picture = Image.fromarray((grey.clip(0, 1) * 255).round().astype(np.uint8))
        return np.asarray(fit(picture, Decode(size, size, pad=self.settings.pad)))[None]


def _table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    except (OSError, ValueError) as error:
        raise BadDataError(f"the table of labels cannot be read: {error}", where=path) from error
    if not {"file", "label"} <= set(table.columns):
        there = ", ".join(map(str, table.columns))
        raise BadDataError(
            "the table of labels lacks a column",
            where=path,
            expected=f"the columns file and label; there are: {there}",
        )
    return table


class _Headers:
    """Reads the headers of all files, and keeps count of what they lack."""

    def __init__(self, source: Path, settings: Dicom.Settings) -> None:
        self.refused: list[Refused] = []
        self._pydicom = _pydicom()
        self._source = source
        self._settings = settings
        self._seen: dict[str, Path] = {}
        self._lacks: Counter[str] = Counter()

    def frames(self, path: Path, label: int) -> list[Frame]:
        """The pictures of a file that are taken."""
        try:
            header = self._pydicom.dcmread(path, stop_before_pixels=True)
            reason = self._reason(header, path)
            count = int(header.get("NumberOfFrames") or 1)
        except self._pydicom.errors.InvalidDicomError:
            reason = "not a DICOM file"
        except BROKEN as error:
            reason = f"its header cannot be read: {error}"
        if reason:
            self.refused.append(Refused(str(path.relative_to(self._source)), reason))
            return []
        name = str(path.relative_to(self._source))
        examination = str(header.get("StudyInstanceUID") or name)
        patient = str(header.get("PatientID") or "").strip()
        self._lacks["no patient id"] += not patient
        self._lacks["burned in?"] += not header.get("BurnedInAnnotation")
        indices = range(count) if self._settings.frames == "all" else [count // 2]
        return [Frame(path, n, label, patient or examination, examination) for n in indices]

    def _reason(self, header: Any, path: Path) -> str:
        """Why a file is refused, or ''."""
        if "Rows" not in header:
            return "a DICOM file without a picture"
        named = "YES" in (
            header.get("BurnedInAnnotation"),
            header.get("RecognizableVisualFeatures"),
        )
        if named and not self._settings.burned_in:
            return (
                "it says that the picture shows a name or a face (0028,0301 or 0028,0302); "
                "dataset.burned_in takes it all the same"
            )
        syntax = header.file_meta.TransferSyntaxUID
        if not _decodable(syntax):
            return f"no decoder here for its compression, {syntax.name}: see sltool[dicom]"
        uid = str(header.get("SOPInstanceUID") or path)
        first = self._seen.setdefault(uid, path)
        return "" if first == path else f"the same image as {first.relative_to(self._source)}"

    def notes(self) -> list[str]:
        """What the user should know about these files."""
        notes = []
        if number := self._lacks["no patient id"]:
            notes.append(
                f"{number} files bear no patient id: there each examination is taken for a patient "
                "of its own, and test figures may be too good"
            )
        if number := self._lacks["burned in?"]:
            notes.append(
                f"{number} files do not say whether a name is burned into the picture (0028,0301): "
                "look at them before they are encoded"
            )
        return notes


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise UsageError(
            "the dataset 'dicom' needs pydicom", hint='pip install "sltool[dicom]"'
        ) from error
    # Odd values are the rule in real files; what matters here is checked where it is used.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom


def _decodable(syntax: Any) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _grey(frame: Frame, window: tuple[float, float] | None) -> NDArray[np.float32]:
    """A picture (H, W), black 0 and white 1."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    header = _pydicom().dcmread(frame.path, stop_before_pixels=True)
    _take_functional_groups(header, frame.index)
    raw = pixel_array(frame.path, index=frame.index)
    kind = header.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        raw = apply_color_lut(raw, header)
        return (raw / np.float32(np.iinfo(raw.dtype).max)) @ LUMINANCE
    if raw.ndim == 3:
        return (raw / np.float32(2**header.BitsStored - 1)) @ LUMINANCE
    grey = _windowed(apply_modality_lut(raw, header), header, window)
    return 1 - grey if kind == "MONOCHROME1" else grey


def _take_functional_groups(header: Any, index: int) -> None:
    """Bring a frame's own rescaling and window to where a plain file has them."""
    groups = [*header.get("SharedFunctionalGroupsSequence", [])]
    groups += header.get("PerFrameFunctionalGroupsSequence", [])[index : index + 1]
    for group in groups:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name, []):
                header.update(item)


def _windowed(
    values: NDArray[Any], header: Any, window: tuple[float, float] | None
) -> NDArray[np.float32]:
    """PS3.3 C.11.2: rescaled values -> 0 to 1, by the study's window, the file's or their range."""
    from pydicom.pixels import apply_voi_lut

    if window is None and "VOILUTSequence" in header:
        bits = header.VOILUTSequence[0].LUTDescriptor[2]
        return (apply_voi_lut(values, header) / (2**bits - 1)).astype(np.float32)
    values = values.astype(np.float32)
    if window is None and header.get("WindowCenter") is None:
        low, high = float(values.min()), float(values.max())
        return (values - low) / max(high - low, 1e-6)
    function = "LINEAR"
    if window is None:
        window = _first(header.WindowCenter), _first(header.WindowWidth)
        function = header.get("VOILUTFunction") or function
    centre, width = window
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR_EXACT" or width <= 1:
        return ((values - centre) / max(width, 1e-6) + 0.5).clip(0, 1)
    return ((values - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1)


def _first(value: Any) -> float:
    return float(value[0] if np.iterable(value) else value)
