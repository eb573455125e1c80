"""A real shard, read as docs/shard-format.md specifies, without sltool's code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "shard-format.md").read_text(encoding="utf-8")


@pytest.fixture(params=["A-train-00000.h5", "B-test-00000.h5"])
def shard(trained_study: Path, request: pytest.FixtureRequest) -> Path:
    return trained_study / "outbox" / request.param[0] / request.param


def keys(document: dict[str, object], prefix: str = "") -> list[str]:
    """'format', 'content.study' ...: every key with a value."""
    return [
        name
        for key, value in document.items()
        for name in (keys(value, f"{key}.") if isinstance(value, dict) else [prefix + key])
    ]


def test_user_block(shard: Path, trained_study: Path) -> None:
    data = shard.read_bytes()
    magic, manifest, signature, rest = data[:4096].split(b"\n", 3)
    assert magic == b"sltool-shard 1"
    assert not rest.strip(b"\0")
    found = json.loads(manifest)
    canonical = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert canonical.encode("ascii") == manifest
    assert found["payload"] == {
        "bytes": len(data) - 4096,
        "sha256": hashlib.sha256(data[4096:]).hexdigest(),
    }
    study = yaml.safe_load((trained_study / "study.yaml").read_text(encoding="utf-8"))
    public = base64.b64decode(study["sites"][found["place"]["site"]]["key"].split(":")[1])
    assert found["key"] == hashlib.sha256(public).hexdigest()[:16]
    assert found["content"]["study"] == study["id"]
    signed = base64.b64decode(signature.split(b":")[1])
    Ed25519PublicKey.from_public_bytes(public).verify(signed, manifest)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(signed, manifest + b" ")


def test_every_key_of_the_manifest_is_documented(shard: Path) -> None:
    manifest = json.loads(shard.read_bytes().split(b"\n", 3)[1])
    for key in keys(manifest):
        assert f"`{key.split('.')[-1]}`" in PAGE or f"`{key}`" in PAGE, key


def test_payload(shard: Path) -> None:
    manifest = json.loads(shard.read_bytes().split(b"\n", 3)[1])
    content, samples = manifest["content"], manifest["samples"]
    with h5py.File(shard) as file:
        assert set(file) == {"features", "labels", "pseudonyms", "groups"}
        assert not file.attrs
        shapes = dict.fromkeys(("labels", "pseudonyms", "groups"), (samples,))
        shapes["features"] = (samples * content["views"], *content["feature_shape"])
        dtypes = {
            "features": content["dtype"],
            "labels": "<f4",
            "pseudonyms": "S32",
            "groups": "S65",
        }
        for name, dataset in file.items():
            assert dataset.shape == dataset.maxshape == shapes[name]
            assert dataset.dtype == np.dtype(dtypes[name])
            row = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))
            rows = min(len(dataset), 8 if dataset.ndim == 4 else max(1, 65536 // row))
            assert dataset.chunks == (rows, *dataset.shape[1:])
            assert (dataset.compression, dataset.shuffle, dataset.fletcher32) == (
                "gzip",
                True,
                True,
            )
            assert not dataset.attrs
        assert np.isfinite(file["features"][:]).all()
        assert np.isfinite(file["labels"][:]).all()
        pseudonyms = [pseudonym.decode("ascii") for pseudonym in file["pseudonyms"]]
        assert all(re.fullmatch("[0-9a-f]{32}", pseudonym) for pseudonym in pseudonyms)
        assert len(set(pseudonyms)) == samples
        groups = [group.decode("ascii") for group in file["groups"]]
        assert all(re.fullmatch("[0-9a-f]{32}(/[0-9a-f]{32})?", group) for group in groups)
