"""Signed shards whose HDF5 payload is hostile: one builder for each way."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from tests.shard.forge import Build, but, create, stored_chunk, write_good

Array = np.ndarray[Any, Any]
SECRET = "/etc/passwd"


def external_link(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, {name: data for name, data in columns.items() if name != "labels"})
    file["labels"] = h5py.ExternalLink(SECRET, "/labels")


def soft_link(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, {name: data for name, data in columns.items() if name != "groups"})
    file["groups"] = h5py.SoftLink("/pseudonyms")


def short_external_link(file: h5py.File, columns: dict[str, Array]) -> None:
    """So short that the header needs no continuation."""
    write_good(file, {name: data for name, data in columns.items() if name != "labels"})
    file["labels"] = h5py.ExternalLink("x", "/")


def short_soft_link(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, {name: data for name, data in columns.items() if name != "groups"})
    file["groups"] = h5py.SoftLink("x")


def hard_link_twice(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, {name: data for name, data in columns.items() if name != "groups"})
    file["groups"] = file["pseudonyms"]


def hard_link_cycle(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, columns)
    file["loop"] = file["/"]


def cycle_in_place_of_a_dataset(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, {name: data for name, data in columns.items() if name != "labels"})
    file["labels"] = file["/"]


def external_storage(file: h5py.File, data: Array) -> None:
    file.create_dataset(
        "labels", shape=data.shape, dtype=data.dtype, external=[(SECRET, 0, data.nbytes)]
    )


def virtual_dataset(file: h5py.File, data: Array) -> None:
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    layout[:] = h5py.VirtualSource("other.h5", "secret", data.shape)
    file.create_virtual_dataset("labels", layout)


def deflate_bomb(file: h5py.File, data: Array) -> None:
    dataset = create(file, "features", data)
    dataset.id.write_direct_chunk((0,) * data.ndim, stored_chunk(bytes(2**29)))


def small_deflate_bomb(file: h5py.File, data: Array) -> None:
    """Its compressed size is within the limit of a chunk."""
    dataset = create(file, "features", data)
    dataset.id.write_direct_chunk((0,) * data.ndim, stored_chunk(bytes(2**17)))


def terabytes(file: h5py.File, data: Array) -> None:
    create(file, "features", data, shape=(2**45 // data[0].size, *data.shape[1:]))


def missing_chunks(file: h5py.File, data: Array) -> None:
    create(file, "features", data)


def skipped_checksum(file: h5py.File, data: Array) -> None:
    dataset = create(file, "features", data)
    raw = np.zeros(dataset.chunks, data.dtype).tobytes()
    # Bits 1 and 2: deflate and fletcher32 were not applied.
    dataset.id.write_direct_chunk((0,) * data.ndim, raw, filter_mask=0b110)


def plugin_filter(file: h5py.File, data: Array) -> None:
    dataset = create(
        file, "features", data, compression=32015, compression_opts=None,
        allow_unknown_filter=True, shuffle=False, fletcher32=False,
    )  # fmt: skip
    dataset.id.write_direct_chunk((0,) * data.ndim, b"zstd?")


def other_filter(file: h5py.File, data: Array) -> None:
    create(file, "features", data, compression="lzf", compression_opts=None)[...] = data


def no_checksum(file: h5py.File, data: Array) -> None:
    create(file, "features", data, fletcher32=False)[...] = data


def variable_length(file: h5py.File, data: Array) -> None:
    file.create_dataset(
        "groups", data=[group.decode() for group in data], dtype=h5py.string_dtype()
    )


def reference_dtype(file: h5py.File, data: Array) -> None:
    file.create_dataset("groups", shape=data.shape, dtype=h5py.ref_dtype)


def compound_dtype(file: h5py.File, data: Array) -> None:
    file.create_dataset("labels", shape=data.shape, dtype=np.dtype([("a", "<f4"), ("b", "<f4")]))


def big_endian(file: h5py.File, data: Array) -> None:
    create(file, "labels", data, dtype=data.dtype.newbyteorder(">"))[...] = data


def growing(file: h5py.File, data: Array) -> None:
    create(file, "labels", data, maxshape=(None,))[...] = data


def contiguous(file: h5py.File, data: Array) -> None:
    file.create_dataset("labels", data=data)


def other_chunks(file: h5py.File, data: Array) -> None:
    create(file, "labels", data, chunks=(1,))[...] = data


def a_group(file: h5py.File, data: Array) -> None:
    file.create_group("labels")


def extra_member(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, columns)
    file["thumbnails"] = np.zeros(10)


def many_members(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, columns)
    for group in range(2000):
        file.create_group(f"g{group}")


def attribute(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, columns)
    file["labels"].attrs["PatientName"] = "DOE^JANE"


def huge_attribute(file: h5py.File, columns: dict[str, Array]) -> None:
    write_good(file, columns)
    file.attrs["x"] = np.zeros(100 * 2**20, np.uint8)


def committed_type(file: h5py.File, data: Array) -> None:
    file["type"] = data.dtype
    create(file, "labels", data, dtype=file["type"])[...] = data


def fill_value(file: h5py.File, data: Array) -> None:
    create(file, "labels", data, fillvalue=7.0)[...] = data


def damaged_stream(file: h5py.File, data: Array) -> None:
    dataset = create(file, "features", data)
    dataset.id.write_direct_chunk((0,) * data.ndim, stored_chunk(b"too short"))


def bytes_behind_the_stream(file: h5py.File, data: Array) -> None:
    from struct import pack

    from sltool.shard.filters import fletcher32, pack_chunk

    dataset = create(file, "features", data)
    longer = pack_chunk(np.zeros(dataset.chunks, data.dtype))[:-4] + b"hidden"
    dataset.id.write_direct_chunk((0,) * data.ndim, longer + pack("<I", fletcher32(longer)))


PAYLOADS: dict[str, Build] = {
    "external link": external_link,
    "soft link": soft_link,
    "short external link": short_external_link,
    "short soft link": short_soft_link,
    "two names of one dataset": hard_link_twice,
    "hard-link cycle": hard_link_cycle,
    "cycle in place of a dataset": cycle_in_place_of_a_dataset,
    "external storage": but(labels=external_storage),
    "virtual dataset": but(labels=virtual_dataset),
    "deflate bomb": but(features=deflate_bomb),
    "small deflate bomb": but(features=small_deflate_bomb),
    "64 TiB shape": but(features=terabytes),
    "missing chunks": but(features=missing_chunks),
    "filter mask": but(features=skipped_checksum),
    "plug-in filter": but(features=plugin_filter),
    "lzf filter": but(features=other_filter),
    "no checksum": but(features=no_checksum),
    "variable-length dtype": but(groups=variable_length),
    "reference dtype": but(groups=reference_dtype),
    "compound dtype": but(labels=compound_dtype),
    "big-endian dtype": but(labels=big_endian),
    "unlimited shape": but(labels=growing),
    "contiguous layout": but(labels=contiguous),
    "other chunks": but(labels=other_chunks),
    "a group in place of a dataset": but(labels=a_group),
    "committed dtype": but(labels=committed_type),
    "fill value": but(labels=fill_value),
    "damaged stream": but(features=damaged_stream),
    "bytes behind the stream": but(features=bytes_behind_the_stream),
    "extra member": extra_member,
    "2000 extra members": many_members,
    "an attribute": attribute,
    "100 MB of attributes": huge_attribute,
}
