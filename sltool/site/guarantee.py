"""The differential privacy of a site's shards: epsilon of a record and of a patient, in words.

An epsilon is stated only where clipping makes it true. It covers every encoding that was shipped,
and the one in the outbox.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sltool.accounting import DELTA, Release, epsilon, is_available
from sltool.models.privacy_layer_file import Fitted, fitted_on, states_origin
from sltool.progress import Progress
from sltool.site.audit.patients import names_patients, patient_of
from sltool.site.private_file import open_private
from sltool.site.releases import ReleaseRecord, with_outbox
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from sltool.wording import plural


@dataclass(frozen=True)
class Guarantee:
    """What differential privacy says of a site's shards.

    Attributes:
        record: epsilon of the feature maps of one record, of all releases together; infinite if
            a release was not clipped, or had no noise.
        patient: the same for all records of the patient who has most.
        records: the number of records of that patient.
        named: whether the source names patients; if not, `patient` is that of one record.
        encodings: how many were shipped, with the one in the outbox.
        maps: feature maps of one training record in all these encodings.
        labels: epsilon of one record's label; None: labels were shipped unchanged.
        layer: what the privacy layer was fitted on; None: it was drawn, or that is not known.
        layer_known: whether the layer's file says how its weights were made.
    """

    delta: float
    record: float
    patient: float
    records: int
    named: bool
    encodings: int
    maps: int
    labels: float | None
    layer: Fitted | None
    layer_known: bool

    def document(self) -> dict[str, Any]:
        """As JSON; None for an epsilon that is infinite."""
        values = {**vars(self), "covered": self.sentences()}
        for name in ("record", "patient"):
            values[name] = values[name] if math.isfinite(values[name]) else None
        return values

    def sentences(self) -> list[str]:
        """What is covered and what is not."""
        return [self._feature_maps(), self._layer(), self._labels()]

    def _feature_maps(self) -> str:
        if not math.isfinite(self.record):
            return (
                "Differential privacy: none. An epsilon needs encoding.clip and encoding.noise in "
                "every encoding that was shipped."
            )
        patient = (
            f"and {self.patient:.3g} for the patient with most records ({self.records})"
            if self.named
            else "and more for a patient with several records: the source names no patients"
        )
        maps, encodings = (
            plural(count, name)
            for count, name in ((self.maps, "feature map"), (self.encodings, "encoding"))
        )
        return (
            f"Differential privacy of the feature maps at delta {self.delta:g}: epsilon "
            f"{self.record:.3g} for one record, with {maps} in {encodings}, {patient}. Covered is "
            "the content of a record against any other, not that the record exists. Epochs of "
            "training do not change it."
        )

    def _layer(self) -> str:
        if not self.layer_known:
            return (
                "How the privacy layer's weights were made is not known: if they were fitted on "
                "patients, what the layer reveals of those is not covered."
            )
        if self.layer is None:
            return "The privacy layer was drawn at random and depends on no patient: it is covered."
        if not self.layer["site"]:
            return (
                "The privacy layer was fitted on public data: what it reveals of the people in "
                "that data is not covered."
            )
        return (
            f"The privacy layer was fitted on the patients of site {self.layer['site']}: what it "
            "reveals of them is not covered."
        )

    def _labels(self) -> str:
        if self.labels is None:
            return "The labels are shipped as they are: they are not covered."
        return (
            f"The label of a record is a randomised response: in addition, epsilon "
            f"{self.labels:.3g} for one record, {self.records * self.labels:.3g} for "
            f"{self.records} of a patient."
        )


def site_guarantee(
    folder: StudyFolder, study: Study, site_name: str, delta: float = DELTA
) -> Guarantee:
    """The guarantee of a site's shards, those in the outbox included.

    Raises:
        StageOrderError: nothing is encoded.
        UsageError: dp-accounting is not installed, or delta is not between 0 and 1.
        BadDataError: a record of the site is damaged.
    """
    site = folder.site(site_name)
    releases = with_outbox(site)
    with open_private(site.private, study.id, "sltool partition") as private:
        groups = private.text("group_pseudonyms")
        named = names_patients(private)
    records = max(Counter(map(patient_of, groups)).values(), default=1)
    return Guarantee(
        delta=delta,
        record=epsilon(_of(releases, 1), delta),
        patient=epsilon(_of(releases, records), delta),
        records=records,
        named=named,
        encodings=len(releases),
        maps=sum(release["views"] for release in releases),
        labels=_label_epsilon(releases),
        layer=fitted_on(folder.privacy_layer),
        layer_known=states_origin(folder.privacy_layer),
    )


def stated_guarantee(
    folder: StudyFolder, study: Study, site_name: str, progress: Progress
) -> Guarantee | None:
    """`site_guarantee` at the usual delta, if the study's settings make it say anything.

    Without dp-accounting, a note says that it is missing.
    """
    encoding = study.encoding
    protects_maps = encoding.clip is not None and encoding.noise > 0
    if not protects_maps and encoding.label_epsilon is None:
        return None
    if not is_available():
        progress.note("no epsilon is stated without dp-accounting: install sltool[dp]")
        return None
    return site_guarantee(folder, study, site_name)


def _of(releases: Sequence[ReleaseRecord], records: int) -> list[Release]:
    """The releases of `records` training records, of which each has all views."""
    return [
        Release(release["clip"], release["noise"], records * release["views"])
        for release in releases
    ]


def _label_epsilon(releases: Sequence[ReleaseRecord]) -> float | None:
    """A response that was drawn for one epsilon is the same in every encoding."""
    found = {release["label_epsilon"] for release in releases}
    return None if None in found else sum(value for value in found if value is not None)
