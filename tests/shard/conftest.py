"""A study with keys, in which shards can be forged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sltool.study.layout import StudyFolder
from tests.shard.forge import Forge


@pytest.fixture
def forge(trained_study: Path, tmp_path: Path) -> Forge:
    """A copy of the trained study of the bundled patients."""
    folder = tmp_path / "forge"
    shutil.copytree(trained_study, folder)
    return Forge(StudyFolder(folder))
