"""Random views of training images: what they are, and how they are shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sltool.site.augment import Augmenter
from sltool.study.schema import Augment, Encoding
from tests.conftest import Sltool
from tests.images import two_classes

NOTHING = {"flip": False, "rotation": 0.0, "crop": 0.0, "brightness": 0.0}


def versions(images: torch.Tensor, views: int = 5, seed: int = 1, **changes: Any) -> torch.Tensor:
    """(n, views, C, H, W)."""
    settings = Encoding(views=views, augment=Augment(**{**NOTHING, **changes}))
    made = Augmenter(settings, seed)(images, views)
    return made.reshape(len(images), views, *images.shape[1:])


def picture(height: int = 20, width: int = 30) -> torch.Tensor:
    """Two smooth images of two channels, without symmetry."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    image = torch.stack([100 * x + 20 * y, 50 * (x - 0.3) ** 2 + 80 * y**2])
    return torch.stack([image, image.flip(1) + 10])


def test_the_first_view_is_the_image_itself() -> None:
    images = picture()
    made = versions(images, flip=True, rotation=30, crop=0.3, brightness=0.3)
    assert torch.equal(made[:, 0], images)
    for view in range(1, 5):
        assert not torch.allclose(made[:, view], images)


def test_without_changes_all_views_are_the_image() -> None:
    images = picture()
    made = versions(images)
    assert torch.allclose(made, images[:, None].expand_as(made), atol=1e-3)


def test_flip_swaps_left_and_right_in_half_of_the_versions() -> None:
    images = picture()
    made = versions(images, views=401, flip=True)[0, 1:]
    unchanged = torch.isclose(made, images[0], atol=1e-2).all(dim=(1, 2, 3))
    flipped = torch.isclose(made, images[0].flip(2), atol=1e-2).all(dim=(1, 2, 3))
    assert (unchanged ^ flipped).all()
    assert 150 < int(flipped.sum()) < 250


@pytest.mark.parametrize(("height", "width"), [(61, 61), (41, 81)])
def test_rotation_keeps_shapes_and_stays_within_its_angle(height: int, width: int) -> None:
    image = torch.zeros(1, 1, height, width)
    middle = (height // 2, width // 2)
    image[0, 0, middle[0], middle[1] + 12 : middle[1] + 15] = 1
    made = versions(image, views=50, rotation=40)[0, 1:, 0]
    angles = []
    for view in made:
        where = np.average(np.argwhere(view.numpy() > 0.2), axis=0) - middle
        # Whatever the aspect ratio, a rotation moves a spot along a circle.
        assert np.hypot(*where) == pytest.approx(13, abs=0.7)
        angles.append(np.rad2deg(np.arctan2(*where)))
    assert max(angles) < 43
    assert min(angles) > -43
    assert max(angles) - min(angles) > 50


def test_crop_enlarges_a_part() -> None:
    image = torch.arange(100.0).reshape(1, 1, 1, 100).expand(1, 1, 100, 100)
    made = versions(image, views=60, crop=0.4)[0, 1:, 0]
    spans = made[:, 50, -1] - made[:, 50, 0]
    assert 55 < spans.min() < 70
    assert 90 < spans.max() < 100
    assert made.min() >= 0
    assert made.max() <= 99


def test_brightness_is_a_factor() -> None:
    images = picture() + 1
    factors = (versions(images, views=200, brightness=0.2)[0, 1:] / images[0]).amax((1, 2, 3))
    assert 0.8 <= factors.min() < 0.83
    assert 1.17 < factors.max() <= 1.2001


def test_the_same_seed_gives_the_same_versions_however_they_are_batched() -> None:
    images = picture()
    settings = Encoding(views=3)
    whole = Augmenter(settings, 5)(images, 3)
    again = Augmenter(settings, 5)
    assert torch.equal(whole, torch.cat([again(images[:1], 3), again(images[1:], 3)]))
    assert not torch.equal(whole, Augmenter(settings, 6)(images, 3))


def features(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file["features"])


def encoded(sltool: Sltool) -> dict[str, bytes]:
    sltool("client-encode", "--force").ok()
    return {path.name: path.read_bytes() for path in sltool.folder.rglob("outbox/*/*.h5")}


def test_views_travel_and_train(sltool: Sltool, tmp_path: Path) -> None:
    source = two_classes(tmp_path / "ct", 40, ("non-COVID", "COVID"))
    sets = ["encoding.views=3", "dataset.size=32", "training.epochs=3", "encoding.dtype=float32"]
    options = [word for setting in sets for word in ("--set", setting)]
    sltool("prepare", "covid-ct", "--source", source, *options).ok()
    sltool("partition", "--ratios", "2:1").ok()
    shards = encoded(sltool)
    assert shards == encoded(sltool)
    outbox = sltool.folder / "outbox" / "A"
    with h5py.File(outbox / "A-train-00000.h5") as file:
        assert file["features"].shape[0] == 3 * file["labels"].shape[0]
    with h5py.File(outbox / "A-validation-00000.h5") as file:
        assert file["features"].shape[0] == file["labels"].shape[0]
    made = features(outbox / "A-train-00000.h5")
    sltool("ship").ok()
    trained = sltool("server-train", "--json").ok().json
    assert trained["accepted"] == 6
    assert trained["rejected"] == 0
    figures = sltool("evaluate", "--metrics", "accuracy", "--json").ok().json
    assert figures["samples"] == 8

    file = sltool.folder / "study.yaml"
    file.write_text(file.read_text().replace("views: 3", "views: 1"))
    encoded(sltool)
    plain = features(outbox / "A-train-00000.h5")
    assert np.array_equal(made[::3], plain)
    assert not np.isclose(made[1::3], plain).all()
    refused = sltool("server-train")
    assert refused.code == 3 or "begun with" in refused.err


@pytest.mark.slow
def test_views_split_over_shards_keep_their_order(sltool: Sltool, tmp_path: Path) -> None:
    source = two_classes(tmp_path / "ct", 20, ("non-COVID", "COVID"))
    options = ["--set", "encoding.views=4", "--set", "dataset.size=256"]
    sltool("prepare", "covid-ct", "--source", source, *options).ok()
    sltool("partition", "--ratios", "1").ok()
    sltool("client-encode").ok()
    whole = features(sltool.folder / "outbox/A/A-train-00000.h5")
    sltool("client-encode", "--shard-mib", "1").ok()
    parts = sorted((sltool.folder / "outbox/A").glob("A-train-*.h5"))
    assert len(parts) > 1
    assert np.array_equal(np.concatenate([features(path) for path in parts]), whole)


def test_a_real_sites_versions_are_its_own_and_stay_the_same(
    sltool: Sltool, tmp_path: Path
) -> None:
    """Their seed is secret, and encoding again gives no further views of an image."""
    source = two_classes(tmp_path / "ct", 20, ("non-COVID", "COVID"))
    options = ["--set", "encoding.views=3", "--set", "dataset.size=32"]
    sltool("prepare", "covid-ct", "--source", source, *options).ok()
    sltool("partition", "--site", "Basel").ok()
    with h5py.File(sltool.folder / "sites" / "Basel" / "private.h5") as file:
        assert int(file.attrs["seed"]) >= 2**64
    assert encoded(sltool) == encoded(sltool)


def test_tables_have_no_views(sltool: Sltool) -> None:
    ran = sltool("prepare", "cholesterol", "--set", "encoding.views=2")
    assert ran.code == 2
    assert "encoding.views has to be 1: only images have random versions" in ran.err
    assert not (sltool.folder / "study.yaml").exists()


def test_a_wrong_setting_is_named_with_its_path(sltool: Sltool) -> None:
    ran = sltool("prepare", "cholesterol", "--set", "encoding.augment.rotaton=5")
    assert ran.code == 2
    assert "unknown key 'encoding.augment.rotaton'; did you mean 'rotation'?" in ran.err
