"""A study: what all parties agree on (`study.yaml`) and the folders it lives in.

The sections that a plug-in needs are re-exported here.
"""

from sltool.study.schema import (
    SPLITS,
    Augment,
    Choice,
    Encoding,
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
