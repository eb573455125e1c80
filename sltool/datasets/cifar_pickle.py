"""CIFAR-10's Python layout, read without executing code that a pickle may contain.

A batch is a pickled dict of bytes and one NumPy array. Here unpickling makes plain values and, for
the array, a stub that keeps its raw state; any other global is refused, and no NumPy code sees the
file's content before its type, shape and length are checked.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import BadDataError, StorageError

# A batch of 10,000 pictures has 31 MB.
LIMIT = 256 * 2**20
PIXELS = 3 * 32 * 32


class _DType:
    """The name of a NumPy dtype."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.name = name.decode("ascii") if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None: ...


class _Array:
    """The state of a NumPy array in a pickle: (version, shape, dtype, Fortran order, bytes)."""

    state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _NDArray:
    """Placeholder for the class numpy.ndarray, which a pickle names but does not use."""


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(raw: object, dtype: object, shape: object, order: object) -> _Array:
    """An array in a pickle of protocol 5."""
    array = _Array()
    content = bytes(raw) if isinstance(raw, bytes | bytearray) else None
    array.state = (1, shape, dtype, order == "F", content)
    return array


def _encode(text: object, encoding: object = "") -> bytes:
    """Bytes in a pickle of protocol 2, as Python 3 writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text in an unknown encoding")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _NDArray,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def read_pickled(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A batch of the Python layout: images (n, 3, 32, 32) and labels (n,).

    Raises:
        BadDataError: the file is not such a batch, or names a global that is not allowed.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise BadDataError("the file is too big for a batch of CIFAR-10", where=path)
        batch = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except (
        pickle.UnpicklingError,
        ValueError,
        EOFError,
        TypeError,
        AttributeError,
        LookupError,
        MemoryError,
        OverflowError,
    ) as error:
        raise _refused(path, str(error) or type(error).__name__) from error
    if not isinstance(batch, dict):
        raise _refused(path, "it is not a dict")
    values = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
    labels = values.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise _refused(path, "it has no list of labels")
    return _pixels(path, values.get("data"), len(labels)), np.array(labels, dtype=np.int64)


def _pixels(path: Path, data: object, rows: int) -> NDArray[np.uint8]:
    state = data.state if isinstance(data, _Array) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise _refused(path, "it has no array 'data'")
    _, shape, dtype, fortran, raw = state
    fits = shape == (rows, PIXELS) and isinstance(dtype, _DType) and dtype.name == "u1"
    if not fits or not isinstance(raw, bytes) or len(raw) != rows * PIXELS:
        raise _refused(path, f"'data' is not {rows} rows of {PIXELS} unsigned bytes")
    flat = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")
    return flat.reshape(rows, 3, 32, 32)


def _refused(path: Path, why: str) -> BadDataError:
    return BadDataError(
        f"the file is not a batch of CIFAR-10's Python version: {why}",
        where=path,
        expected="a pickled dict with 'data' and 'labels'; no code in it is executed",
    )
