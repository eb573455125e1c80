"""A study: what all parties agree on (`study.yaml`) and the folders it is in.

The sections that a plug-in needs can be imported from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sltool.study.schema import (
        SPLITS,
        Augment,
        Choice,
        Encoding,
        FeatureAugment,
        Fraction,
        Labels,
        ModelChoice,
        Positive,
        Samples,
        Section,
        Site,
        SiteName,
        Split,
        Study,
        Training,
    )

__all__ = [
    "SPLITS",
    "Augment",
    "Choice",
    "Encoding",
    "FeatureAugment",
    "Fraction",
    "Labels",
    "ModelChoice",
    "Positive",
    "Samples",
    "Section",
    "Site",
    "SiteName",
    "Split",
    "Study",
    "Training",
]


def __getattr__(name: str) -> Any:
    # Not above: `sltool.study.layout` needs no pydantic, which doubles the time of `sltool --help`.
    if name in __all__:
        from sltool.study import schema

        return getattr(schema, name)
    raise AttributeError(f"module 'sltool.study' has no attribute '{name}'")
