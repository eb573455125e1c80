"""`client-encode` and `ship`: what leaves a hospital, byte by byte."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Sltool


@pytest.fixture
def sites(sltool: Sltool) -> Sltool:
    sltool("prepare", "cholesterol", "--recipe", "paper", "--seed", 0).ok()
    sltool("partition").ok()
    return sltool


def shards(folder: Path, site: str = "B") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "outbox" / site).iterdir())}


def test_feature_maps_are_the_privacy_layers_output(sites: Sltool) -> None:
    sites("client-encode", "--site", "B").ok()
    weights = load_file(sites.folder / "privacy-layer.safetensors")
    with h5py.File(sites.folder / "sites" / "B" / "private.h5") as file:
        train = file["split"].asstr()[:] == "train"
        inputs, labels = file["inputs"][train], file["labels"][train]
    mean = np.array([40.9, 1.5, 27, 95, 184.2, 54.1, 110.6])
    sd = np.array([22, 0.5, 6, 14, 41.4, 15.3, 65.2])
    x = torch.from_numpy((inputs - mean) / sd).float()
    expected = torch.nn.functional.leaky_relu(x @ weights["0.0.weight"].T + weights["0.0.bias"])
    with h5py.File(sites.folder / "outbox" / "B" / "B-train-00000.h5") as file:
        assert set(file) == {"features", "labels", "pseudonyms", "groups"}
        features = file["features"][:]
        assert features.dtype == np.float16
        np.testing.assert_allclose(features, expected.numpy(), atol=2e-3, rtol=2e-3)
        assert (file["labels"][:] == labels).all()


def test_without_noise_same_input_same_bytes(sites: Sltool) -> None:
    sites("client-encode", "--site", "B").ok()
    first = shards(sites.folder)
    sites("client-encode", "--site", "B", "--force").ok()
    assert shards(sites.folder) == first
    assert set(first) == {"B-train-00000.h5", "B-validation-00000.h5", "B-test-00000.h5"}


@pytest.mark.slow
def test_shards_are_cut_and_chained(sites: Sltool) -> None:
    study = sites.folder / "study.yaml"
    study.write_text(study.read_text().replace("widths: [16,", "widths: [4000,"))
    sites("prepare", "--force").ok()
    sites("client-encode", "--site", "A", "--shard-mib", "1").ok()
    manifests = [
        json.loads(content.split(b"\n")[1])
        for name, content in shards(sites.folder, "A").items()
        if "train" in name
    ]
    assert len(manifests) == 2
    assert sum(manifest["samples"] for manifest in manifests) == 248
    assert manifests[0]["previous"] is None
    import hashlib

    canonical = json.dumps(manifests[0], sort_keys=True, separators=(",", ":")).encode()
    assert manifests[1]["previous"] == hashlib.sha256(canonical).hexdigest()


def features(sites: Sltool, site: str = "A", **settings: float | str) -> np.ndarray:
    """What the site ships for training under these settings of `encoding`."""
    path = sites.folder / "study.yaml"
    text = path.read_text()
    changed = text
    for key, value in settings.items():
        changed, found = re.subn(rf"(?m)^  {key}: .*$", f"  {key}: {value}", changed)
        assert found == 1
    path.write_text(changed)
    sites("client-encode", "--site", site, "--force").ok()
    path.write_text(text)
    with h5py.File(sites.folder / "outbox" / site / f"{site}-train-00000.h5") as file:
        return np.asarray(file["features"][:], dtype=float)


def test_noise_and_clipping(sites: Sltool) -> None:
    plain = features(sites)
    clipped = features(sites, clip=0.5)
    norms = np.linalg.norm(plain, axis=1)
    assert (norms > 0.5).all()
    np.testing.assert_allclose(np.linalg.norm(clipped, axis=1), 0.5, rtol=1e-2)
    noisy = features(sites, noise=2.0)
    assert (noisy - plain).std() == pytest.approx(2.0, rel=0.05)
    assert abs((noisy - plain).mean()) < 0.2


def test_two_noise_levels_do_not_give_the_clean_maps_away(sites: Sltool) -> None:
    plain, half, whole = (features(sites, dtype="float32", noise=sd) for sd in (0.0, 0.5, 1.0))
    # Independent noise leaves a standard deviation of sqrt((2 * 0.5)**2 + 1**2).
    assert (2 * half - whole - plain).std() == pytest.approx(2**0.5, rel=0.1)


def test_every_encoding_draws_its_own_noise(sites: Sltool) -> None:
    plain = features(sites)
    first, second = (features(sites, noise=1.0) - plain for _ in range(2))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


def test_a_second_noisy_copy_causes_a_warning(sites: Sltool) -> None:
    path = sites.folder / "study.yaml"
    path.write_text(path.read_text().replace("noise: 0.0", "noise: 1.0"))
    assert "noisy copy" not in sites("client-encode", "--site", "A").ok().err
    sites("ship", "--site", "A").ok()
    assert "noisy copy" in sites("client-encode", "--site", "A", "--force").ok().err


def test_no_private_file_holds_the_key_of_the_noise(sites: Sltool) -> None:
    """A copy of all the hospital's files, restored from a backup, gives different noise."""
    backup = sites.folder.with_name("backup")
    shutil.copytree(sites.folder, backup)
    first = features(sites, noise=1.0)
    shutil.rmtree(sites.folder)
    backup.rename(sites.folder)
    assert not np.isclose(first, features(sites, noise=1.0), atol=1e-3).mean() > 0.01


def test_too_large_for_float16_is_an_error_not_an_infinity(sites: Sltool) -> None:
    path = sites.folder / "study.yaml"
    path.write_text(path.read_text().replace("sd: [22.0,", "sd: [1.0e-30,"))
    ran = sites("client-encode", "--site", "B")
    assert ran.code == 3
    assert "float16" in ran.err
    assert "float32" in ran.err


def test_an_interrupted_encoding_is_not_shipped(sites: Sltool) -> None:
    sites("client-encode", "--site", "B").ok()
    (sites.folder / "sites" / "B" / "encoded.json").unlink()
    ran = sites("ship", "--site", "B")
    assert ran.code == 2
    assert "client-encode --site B" in ran.err


def test_ship_copies_whole_files_and_knows_what_it_sent(sites: Sltool, tmp_path: Path) -> None:
    sites("client-encode", "--site", "B").ok()
    disk = tmp_path / "usb"
    done = sites("ship", "--site", "B", "--to", disk, "--json").ok().json
    assert done["destination"] == str(disk)
    assert {path.name: path.read_bytes() for path in disk.iterdir()} == shards(sites.folder)
    assert done["bytes"] == sum(len(content) for content in shards(sites.folder).values())
    assert "already shipped" in sites("ship", "--site", "B", "--to", disk).ok().out
    before = {path: path.stat().st_mtime_ns for path in disk.iterdir()}
    sites("ship", "--site", "B", "--to", disk, "--force").ok()
    assert all(path.stat().st_mtime_ns > time for path, time in before.items())


@pytest.mark.parametrize("kind", ["", "file://"])
def test_complete_files_at_the_destination_are_skipped(
    sites: Sltool, tmp_path: Path, kind: str
) -> None:
    """Another disk at the same place, one that lost a file, one with a damaged file."""
    sites("client-encode", "--site", "B").ok()
    disk = tmp_path / "usb"
    ship = ("ship", "--site", "B", "--to", f"{kind}{disk}")
    sites(*ship).ok()
    disk.rename(tmp_path / "the first disk")
    assert "already" not in sites(*ship).ok().out
    assert {path.name: path.read_bytes() for path in disk.iterdir()} == shards(sites.folder)
    for damage in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])):
        damage(disk / "B-test-00000.h5")
        written_at = (disk / "B-train-00000.h5").stat().st_mtime_ns
        assert "already" not in sites(*ship).ok().out
        assert {path.name: path.read_bytes() for path in disk.iterdir()} == shards(sites.folder)
        assert (disk / "B-train-00000.h5").stat().st_mtime_ns == written_at
    disk.rename(tmp_path / "the second disk")
    (tmp_path / "the first disk").rename(disk)
    assert "already shipped" in sites(*ship).ok().out


def test_shards_that_the_server_took_in_are_not_sent_again(sites: Sltool) -> None:
    sites("client-encode", "--site", "B").ok()
    sites("ship", "--site", "B").ok()
    inbox = sites.folder / "server" / "inbox"
    assert "already shipped" in sites("ship", "--site", "B").ok().out
    sites("queue", "take").ok()
    assert "already shipped" in sites("ship", "--site", "B", "--to", inbox).ok().out
    assert not list(inbox.iterdir())


def test_ship_to_a_url(sites: Sltool, tmp_path: Path) -> None:
    sites("client-encode", "--site", "B").ok()
    disk = tmp_path / "bucket"
    disk.mkdir()
    sites("ship", "--site", "B", "--to", f"file://{disk}").ok()
    assert {path.name: path.read_bytes() for path in disk.iterdir()} == shards(sites.folder)
    ran = sites("ship", "--site", "B", "--to", "nowhere://bucket")
    assert ran.code == 3
    assert "nowhere" in ran.err


def test_a_dead_layer_causes_a_warning_with_the_share(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--recipe", "paper", "--set", "model.activation=relu").ok()
    sltool("partition").ok()
    fine = sltool("client-encode", "--site", "B", "--json").ok()
    assert fine.json["dead_values"] < 0.2
    assert "server has little to learn" not in fine.err
    path = sltool.folder / "privacy-layer.safetensors"
    weights = load_file(path)
    weights["0.0.bias"][:12] = -100
    save_file(weights, path)
    silent = sltool("client-encode", "--site", "B", "--json").ok()
    share = silent.json["dead_values"]
    assert 12 / 16 <= share < 0.9
    assert f"site B: {share:.0%} of the privacy layer's values are zero" in silent.err
    again = sltool("client-encode", "--site", "B", "--json").ok().json
    assert (again["already_encoded"], again["dead_values"]) == (True, share)


def test_values_that_never_change_are_dead(sltool: Sltool) -> None:
    """Noise hides a constant, so the count is taken before it is added."""
    settings = ("model.activation=sigmoid", "encoding.noise=0.5")
    sltool("prepare", "cholesterol", "--recipe", "paper", "--set", *settings).ok()
    sltool("partition").ok()
    path = sltool.folder / "privacy-layer.safetensors"
    weights = load_file(path)
    weights["0.0.weight"][:8] = 0
    save_file(weights, path)
    done = sltool("client-encode", "--site", "B", "--json").ok()
    assert done.json["dead_values"] == 0.5
    assert "50% of the privacy layer's values" in done.err
