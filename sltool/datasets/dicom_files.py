"""DICOM files, as they come from a hospital's archive (pip install "sltool[dicom]").

A file's attributes are applied as the standard says (PS3.3): rescale slope and intercept or the
modality's table (C.11.1), the window or VOI table (C.11.2), MONOCHROME1 (C.7.6.3.1.2), and for
enhanced multi-frame files their functional groups (C.7.6.16).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sltool.datasets.base import Refused, UnreadableSampleError
from sltool.datasets.images import Decode, grey_picture, linear_window
from sltool.errors import UsageError
from sltool.wording import plural

# What pydicom and its decoders raise for a file that breaks the standard.
BROKEN = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(RuntimeError, OSError, EOFError, struct.error),
)
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
Frames = Literal["all", "middle"]


@dataclass(frozen=True)
class Frame:
    """A picture of a file, its patient and its examination.

    Attributes:
        columns: institution, scanner and year, for `Scan.columns`.
    """

    path: Path
    index: int
    patient: str
    examination: str
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)

    def load(self, decode: Decode) -> NDArray[np.uint8]:
        """(channels, height, width), black 0 and white 255; colour becomes grey.

        Raises:
            UnreadableSampleError: the picture cannot be decoded.
        """
        try:
            grey = _grey(self, decode.window)
        except BROKEN as error:
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            raise UnreadableSampleError(f"its picture cannot be decoded: {reason}") from error
        return grey_picture(grey, decode)


def _columns(header: Any) -> dict[str, str]:
    """Institution, scanner and year of a file; no finer date, which would lead to a patient."""
    names = ("Manufacturer", "ManufacturerModelName")
    scanner = " ".join(str(header.get(name) or "").strip() for name in names)
    return {
        "institution": str(header.get("InstitutionName") or "").strip(),
        "scanner": scanner.strip(),
        "year": str(header.get("StudyDate") or "")[:4],
    }


def chosen_frames(count: int, frames: Frames) -> list[int]:
    """The indices of the pictures that are used, of a file with `count` pictures."""
    return list(range(count)) if frames == "all" else [count // 2]


class Headers:
    """Reads the headers of all files, and counts the missing attributes.

    Args:
        source: the folder; files are named relative to it.
        frames: which pictures of a file are used.
        burned_in: accept files whose header says that a name is burned into the picture.
    """

    def __init__(self, source: Path, frames: Frames, burned_in: bool) -> None:
        self.refused: list[Refused] = []
        self._pydicom = _pydicom()
        self._source = source
        self._frames = frames
        self._burned_in = burned_in
        self._seen: dict[str, Path] = {}
        self._lacks: Counter[str] = Counter()

    def frames(self, path: Path) -> list[Frame]:
        """The pictures of a file that are used; none for a refused file."""
        try:
            header = self._pydicom.dcmread(path, stop_before_pixels=True)
            reason = self._reason(header, path)
            count = int(header.get("NumberOfFrames") or 1)
        except self._pydicom.errors.InvalidDicomError:
            reason = "not a DICOM file"
        except BROKEN as error:
            reason = f"its header cannot be read: {error}"
        if reason:
            self.refused.append(Refused(self._name(path), reason))
            return []
        name = self._name(path)
        examination = str(header.get("StudyInstanceUID") or name)
        patient = str(header.get("PatientID") or "").strip()
        columns = _columns(header)
        self._lacks["no patient id"] += not patient
        self._lacks["burned in?"] += not header.get("BurnedInAnnotation")
        return [
            Frame(path, index, patient or examination, examination, columns)
            for index in chosen_frames(count, self._frames)
        ]

    def _reason(self, header: Any, path: Path) -> str:
        """Why a file is refused, or ''."""
        if "Rows" not in header:
            return "a DICOM file without a picture"
        named = "YES" in (
            header.get("BurnedInAnnotation"),
            header.get("RecognizableVisualFeatures"),
        )
        if named and not self._burned_in:
            return (
                "its header says that the picture shows a name or a face (0028,0301 or 0028,0302); "
                "dataset.burned_in: true accepts it"
            )
        syntax = header.file_meta.TransferSyntaxUID
        if not _decodable(syntax):
            return f"no decoder is installed for its compression, {syntax.name}: see sltool[dicom]"
        uid = str(header.get("SOPInstanceUID") or path)
        first = self._seen.setdefault(uid, path)
        return "" if first == path else f"the same image as {self._name(first)}"

    def _name(self, path: Path) -> str:
        return path.relative_to(self._source).as_posix()

    def notes(self) -> list[str]:
        """What the user should know about these files."""
        notes = []
        if count := self._lacks["no patient id"]:
            notes.append(
                f"{plural(count, 'file has', 'files have')} no patient id: there each "
                "examination is treated as a patient of its own, and test figures may be too good"
            )
        if count := self._lacks["burned in?"]:
            notes.append(
                f"{plural(count, 'file does', 'files do')} not say whether a name is "
                "burned into the picture (0028,0301): look at them before they are encoded"
            )
        return notes


def size_of_dicom(path: Path) -> tuple[int, int]:
    """Width and height; raises `UnreadableSampleError`."""
    try:
        header = _pydicom().dcmread(path, stop_before_pixels=True)
        return int(header.Columns), int(header.Rows)
    except BROKEN as error:
        raise UnreadableSampleError(f"not a DICOM picture: {error}") from error


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise UsageError("DICOM files need pydicom", hint='pip install "sltool[dicom]"') from error
    # Real files often break the value rules; values are checked where they are used.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom


def _decodable(syntax: Any) -> bool:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _grey(frame: Frame, window: tuple[float, float] | None) -> NDArray[Any]:
    """A picture (H, W), black 0 and white 1."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

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
    """Copy a frame's own rescaling and window to where a single-frame file has them."""
    groups = [*header.get("SharedFunctionalGroupsSequence", [])]
    groups += header.get("PerFrameFunctionalGroupsSequence", [])[index : index + 1]
    for group in groups:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name, []):
                header.update(item)


def _windowed(
    values: NDArray[Any], header: Any, window: tuple[float, float] | None
) -> NDArray[Any]:
    """PS3.3 C.11.2: rescaled values -> 0 to 1, by the study's window, the file's or their range."""
    from pydicom.pixels.processing import apply_voi_lut

    if window is None and "VOILUTSequence" in header:
        bits = header.VOILUTSequence[0].LUTDescriptor[2]
        return np.asarray(apply_voi_lut(values, header) / (2**bits - 1), dtype=np.float32)
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
    return linear_window(values, centre, width).clip(0, 1)


def _first(value: Any) -> float:
    return float(next(iter(value)) if np.iterable(value) else value)
