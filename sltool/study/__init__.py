"""A study: the agreement of all parties (`study.yaml`) and the study's folders.

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
