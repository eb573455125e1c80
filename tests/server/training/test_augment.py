"""Augmentation of feature maps at the server: what each setting does, resumption, several ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sltool.errors import StudyFileError
from sltool.server.training.augment import Batch, FeatureAugmenter
from sltool.server.training.objective import Objective
from sltool.study.layout import StudyFolder
from sltool.study.schema import FeatureAugment, Labels, Training
from sltool.study.study_file import load_study
from tests.conftest import Sltool
from tests.images import two_classes
from tests.server.conftest import PATIENCE, Server, same
from tests.server.training.test_distributed import TOLERANCE, losses, torchrun

COUNT = 64


def maps(count: int = COUNT, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, side, side, generator=generator)


def augmented(
    features: torch.Tensor, labels: torch.Tensor, step: int = 0, **options: float
) -> Batch:
    augmenter = FeatureAugmenter(FeatureAugment.model_validate(options), seed=1)
    everything = torch.arange(len(features))
    return augmenter(
        lambda part: (features[part], labels[part]), everything, len(features), 0, step
    )


def test_without_settings_nothing_changes() -> None:
    features, labels = maps(), torch.arange(COUNT)
    batch = augmented(features, labels)
    assert torch.equal(batch.features, features)
    assert torch.equal(batch.labels, labels)
    assert batch.share == 1


def test_flip_mirrors_its_share_of_the_samples() -> None:
    features = maps()
    changed = augmented(features, torch.arange(COUNT), flip=0.25).features
    mirrored = (changed == features.flip(-1)).flatten(1).all(1)
    kept = (changed == features).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 6 <= int(mirrored.sum()) <= 26
    whole = augmented(features, torch.arange(COUNT), flip=1).features
    assert torch.equal(whole, features.flip(-1))


def centres(features: torch.Tensor) -> torch.Tensor:
    """(n, 2): the centre of mass of each map, as shares of height and width."""
    place = (torch.arange(features.shape[-1]) + 0.5) / features.shape[-1]
    rows, columns = features.sum((1, 3)), features.sum((1, 2))
    total = features.sum((1, 2, 3))
    return torch.stack([(rows * place).sum(1) / total, (columns * place).sum(1) / total], 1)


def test_shift_moves_every_map_by_at_most_its_share() -> None:
    spot = torch.zeros(COUNT, 1, 40, 40)
    spot[:, :, 18:22, 18:22] = 1
    moved = centres(augmented(spot, torch.arange(COUNT), shift=0.25).features) - 0.5
    assert 0.2 < float(moved.abs().max()) <= 0.251
    assert len(torch.unique(moved[:, 0])) > COUNT // 2
    # Both axes, both directions.
    assert bool((moved.min(0).values < -0.1).all())
    assert bool((moved.max(0).values > 0.1).all())


def test_crop_enlarges_and_stays_inside_the_map() -> None:
    spot = torch.zeros(COUNT, 1, 40, 40)
    spot[:, :, 16:24, 16:24] = 1
    areas = augmented(spot, torch.arange(COUNT), crop=0.3).features.sum((1, 2, 3)) / 64
    assert 1 <= float(areas.min()) < 1.2
    assert 1.6 < float(areas.max()) <= 1 / 0.7**2 + 0.05
    # The window is inside: a map with a bright edge on all sides keeps some of it in its corners.
    ramp = torch.arange(40.0).repeat(COUNT, 1, 40, 1)
    changed = augmented(ramp, torch.arange(COUNT), crop=0.3).features
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 39
    assert float((changed.amax((1, 2, 3)) - changed.amin((1, 2, 3))).min()) > 0.69 * 39


def test_erase_replaces_a_rectangle_by_the_channels_mean() -> None:
    features = maps(side=32)
    changed = augmented(features, torch.arange(COUNT), erase=1).features
    erased = (changed != features).all(1)
    shares = erased.float().mean((1, 2))
    assert 0.005 < float(shares.min()) < 0.1
    assert 0.3 < float(shares.max()) <= 0.42
    for sample in range(COUNT):
        rows, columns = erased[sample].any(1), erased[sample].any(0)
        assert torch.equal(erased[sample], rows[:, None] & columns[None, :])
        means = features[sample].mean((1, 2))
        assert torch.allclose(changed[sample][:, erased[sample]], means[:, None])
    half = augmented(features, torch.arange(COUNT), erase=0.5).features
    assert 16 < int((half != features).flatten(1).any(1).sum()) < 48


def test_mixup_mixes_maps_and_labels_by_the_same_share() -> None:
    features, labels = maps(), torch.arange(COUNT)
    shares = []
    for step in range(40):
        batch = augmented(features, labels, step, mixup=1)
        expected = batch.share * features + (1 - batch.share) * features[batch.others]
        assert torch.allclose(batch.features, expected, atol=1e-6)
        assert sorted(batch.others.tolist()) == labels.tolist()
        shares.append(batch.share)
    # Beta(1, 1) is uniform.
    assert np.mean(shares) == pytest.approx(0.5, abs=0.15)
    assert min(shares) < 0.15
    assert max(shares) > 0.85


def test_cutmix_pastes_a_rectangle_and_counts_it() -> None:
    features, labels = maps(), torch.arange(COUNT)
    for step in range(20):
        batch = augmented(features, labels, step, cutmix=1)
        foreign = (batch.features != features).all(1)[batch.others != labels]
        assert torch.equal(foreign, foreign[:1].expand_as(foreign)), "one rectangle a batch"
        assert batch.share == pytest.approx(1 - float(foreign[0].float().mean()), abs=1e-6)
        inside = foreign[0].any(1)[:, None] & foreign[0].any(0)[None, :]
        assert torch.equal(foreign[0], inside)
        partner = features[batch.others]
        assert torch.equal(batch.features, torch.where(inside, partner, features))


def test_mixup_and_cutmix_take_turns() -> None:
    features, labels = maps(), torch.arange(COUNT)
    pasted = 0
    for step in range(60):
        batch = augmented(features, labels, step, mixup=0.5, cutmix=0.5)
        unchanged = (batch.features == features).all(1).float().mean()
        pasted += float(unchanged) > 0.02
    assert 15 < pasted < 45


def test_the_numbers_follow_from_seed_epoch_and_step() -> None:
    features, labels = maps(), torch.arange(COUNT)
    options = {"flip": 0.5, "shift": 0.1, "crop": 0.1, "erase": 0.5, "mixup": 0.2}
    first, again, later = (augmented(features, labels, step, **options) for step in (3, 3, 4))
    assert torch.equal(first.features, again.features)
    assert first.share == again.share
    assert not torch.equal(first.features, later.features)


def test_ranks_change_their_part_of_the_batch_as_one_process_does() -> None:
    features, labels = maps(), torch.arange(COUNT)
    for mixer in ("mixup", "cutmix"):
        options = FeatureAugment(flip=0.5, crop=0.2, erase=0.5, **{mixer: 1.0})
        augmenter = FeatureAugmenter(options, seed=1)

        def load(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return features[part], labels[part]

        whole = augmenter(load, torch.arange(COUNT), COUNT, 0, 0)
        for rank in range(3):
            local = torch.arange(COUNT)[rank::3]
            part = augmenter(load, local, COUNT, 0, 0)
            assert torch.equal(part.features, whole.features[local])
            assert torch.equal(part.others, whole.others[local])
            assert part.share == whole.share


def soft_loss(kind: str, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The loss of (n, outputs) against labels that are already mixed."""
    if kind == "multiclass":
        return torch.nn.functional.cross_entropy(outputs, target)
    if kind == "binary":
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], target)
    return torch.nn.functional.mse_loss(outputs[:, 0], (target - 100) / 30)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_the_loss_is_that_of_the_mixed_label(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    classes = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "regression": ()}[kind]
    objective = Objective(Labels(kind=kind, classes=classes, mean=100, sd=30), Training())
    outputs = torch.randn(8, 3 if kind == "multiclass" else 1, generator=generator)
    if kind == "regression":
        labels, others = 100 + 30 * torch.randn(2, 8, generator=generator)
        target = 0.3 * labels + 0.7 * others
    else:
        labels, others = torch.randint(len(classes), (2, 8), generator=generator)
        hot = torch.nn.functional.one_hot(torch.stack([labels, others]), len(classes)).float()
        target = 0.3 * hot[0] + 0.7 * hot[1]
        target = target if kind == "multiclass" else target[:, 1]
    loss = Batch(torch.empty(0), labels, others, 0.3).loss(objective, outputs)
    assert float(loss) == pytest.approx(float(soft_loss(kind, outputs, target)), rel=1e-5)


def test_flips_and_shifts_of_a_feature_map_are_nearly_those_of_the_image() -> None:
    """By whole pixels of the map, inside the map; a flip only as far as the filters are even."""
    from sltool.models.base import draw_privacy_layer
    from tests.models.studies import study_of

    study = study_of("covid-cnn", (1, 64, 64), filters=[16, 32])
    layer = draw_privacy_layer(study, 0, Path())
    image = torch.nn.functional.interpolate(maps(8, 8)[:, :1], size=64, mode="bilinear")
    with torch.inference_mode():
        original, moved = layer(image), layer(image.roll(8, dims=3))
        flipped = layer(image.flip(-1))
    assert torch.allclose(original.roll(4, dims=3)[..., 8:-8], moved[..., 8:-8], atol=1e-5)
    spread = (original - original.mean(0)).square().mean()
    assert float((flipped.flip(-1) - original).square().mean() / spread) < 0.5


SPATIAL = ("flip", "shift", "crop", "erase", "cutmix")


@pytest.mark.parametrize("key", SPATIAL)
def test_tables_take_only_mixup(sltool: Sltool, key: str) -> None:
    ran = sltool("prepare", "cholesterol", "--set", f"training.augment.{key}=0.5")
    assert ran.code == 2
    assert f"training.augment.{key} has to be 0" in ran.err
    assert list(sltool.folder.iterdir()) == []


def test_feature_maps_without_height_and_width_take_only_mixup() -> None:
    vectors, labels = torch.rand(8, 5), torch.arange(8)
    with pytest.raises(StudyFileError, match=r"training\.augment\.erase needs feature maps"):
        augmented(vectors, labels, erase=0.5)
    assert augmented(vectors, labels, mixup=1).features.shape == (8, 5)


def mix(server: Server) -> None:
    """`training.augment.mixup: 0.4` in study.yaml."""
    path = server.folder / "study.yaml"
    path.write_text(path.read_text().replace("mixup: 0.0", "mixup: 0.4"))
    assert load_study(StudyFolder(server.folder)).training.augment.mixup == 0.4


def test_a_stopped_run_ends_with_the_same_weights(shipped: Server) -> None:
    shipped.sltool("server-train", "--run", "plain", "--max-epochs", 4).ok()
    mix(shipped)
    shipped.sltool("server-train", "--run", "unbroken", "--max-epochs", 4).ok()
    shipped.sltool("server-train", "--max-epochs", 2).ok()
    shipped.sltool("server-train", "--max-epochs", 4).ok()
    assert same(shipped.weights(), shipped.weights("unbroken"))
    assert not same(shipped.weights(), shipped.weights("plain"))
    ran = shipped.sltool("server-train", "--run", "plain")
    assert ran.code == 2
    assert "begun with training.augment.mixup 0.0, now it is 0.4" in ran.err


@pytest.mark.slow
def test_two_ranks_have_the_loss_curve_of_one_process_with_mixup(shipped: Server) -> None:
    mix(shipped)
    shipped.sltool("server-train", "--run", "one", "--max-epochs", 3).ok()
    process = torchrun(shipped, "--run", "two", "--quiet", "--max-epochs", 3)
    _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, message
    assert losses(shipped, "two") == pytest.approx(losses(shipped, "one"), rel=TOLERANCE)


def test_a_run_of_an_earlier_version_resumes(shipped: Server) -> None:
    """Its record has no `training.augment`."""
    shipped.sltool("server-train", "--max-epochs", 2).ok()
    path = shipped.run_folder() / "run.json"
    record = json.loads(path.read_text())
    del record["training"]["augment"]
    path.write_text(json.dumps(record))
    assert shipped.sltool("server-train", "--json").ok().json["epochs"] == 6


def test_every_setting_trains_on_images(sltool: Sltool, tmp_path: Path) -> None:
    source = two_classes(tmp_path / "slices", 30, ("non-COVID", "COVID"))
    settings = [f"training.augment.{key}=0.3" for key in (*SPATIAL, "mixup")]
    sizes = ["dataset.size=32", "model.filters=[4,8]", "encoding.views=1", "training.epochs=25"]
    sltool("prepare", "covid-ct", "--source", source, "--seed", 0, "--set", *sizes, *settings).ok()
    for stage in ("partition", "client-encode", "ship", "server-train"):
        sltool(stage).ok()
    assert sltool("evaluate", "--json").ok().json["metrics"]["accuracy"] > 0.9
