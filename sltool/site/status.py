"""What a site has done so far, and what comes next. Reads small records only; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from sltool.errors import SltoolError
from sltool.files import read_json
from sltool.models.privacy_layer_file import awaits_fit
from sltool.shard.keys import SigningKey, fingerprint
from sltool.shard.reader import read_manifest
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL
from sltool.site.audit.record import DAMAGED, AuditRecord
from sltool.site.log import read_log
from sltool.site.outbox import is_complete, is_newer
from sltool.site.stage_records import EncodedRecord, ShippedRecord, read_record
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.next_step import NextStep
from sltool.study.schema import Study


@dataclass(frozen=True)
class SiteStatus:
    """One site whose private folder is here.

    Attributes:
        fingerprint: of its key; '' if it has none.
        done: the stages that are done, in order.
        shipped_to: destinations that have all files of the outbox.
        log_problems: what shows that entries of its log were removed or changed.
    """

    site: str
    fingerprint: str
    done: list[str]
    shipped_to: list[str]
    log_problems: list[str]
    next: NextStep


def site_status(folder: StudyFolder, study: Study, name: str) -> SiteStatus:
    """Read the state of a site.

    Raises:
        BadDataError: a record is damaged.
    """
    site = folder.site(name)
    state = _State(folder, study, site)
    key = fingerprint(SigningKey.load(site.key).public) if site.key.is_file() else ""
    return SiteStatus(
        name, key, state.done(), state.shipped_to, list(read_log(site).problems), state.next()
    )


class _State:
    """The records of a site, looked at once."""

    def __init__(self, folder: StudyFolder, study: Study, site: SiteFolder) -> None:
        self._folder, self._study, self._site = folder, study, site
        self._record = read_record(site.encoded, EncodedRecord)
        self._withdrawals = {path.name for path in site.outbox.glob(f"*{WITHDRAWAL}")}
        layer = folder.privacy_layer
        self._encoding = study.encoding_digest(layer) if layer.is_file() else ""
        self.shipped_to = self._destinations()

    def done(self) -> list[str]:
        """The names of the stages that are done."""
        site, folder = self._site, self._folder
        stages = {
            "joined": site.key.is_file() and folder.joined.is_file(),
            "enrolled": site.key.is_file() and not folder.joined.is_file(),
            "prepared": folder.prepared.is_file(),
            "partitioned": site.private.is_file(),
            "encoded": self._is_encoded,
            "audited": self._is_encoded and self._is_audited,
            "shipped": bool(self.shipped_to),
        }
        return [stage for stage, is_done in stages.items() if is_done]

    def next(self) -> NextStep:
        """The first thing that is missing."""
        name = self._site.name
        if not self._site.private.is_file():
            if not self._folder.prepared.is_file():
                return NextStep("sltool prepare --source PATH", "reads this hospital's data")
            return NextStep(f"sltool partition --site {name}", "all samples are this site's")
        if not self._site.key.is_file():
            return NextStep(f"sltool enroll --site {name}", "the site has no key")
        if self._folder.privacy_layer.is_file() and awaits_fit(
            self._folder.privacy_layer, self._study
        ):
            why = "or take the fitted layer and study.yaml from whoever made the study"
            return NextStep(f"sltool fit-privacy-layer --site {name}", why)
        if not self._is_encoded:
            why = (
                "the encoding has changed since the shards were written"
                if self._record and self._record["state"].get("encoding") != self._encoding
                else "runs the privacy layer and fills the outbox"
            )
            return NextStep(f"sltool client-encode --site {name}", why)
        if is_newer(self._site.private, self._site.encoded):
            why = "the site has grown, or was made anew, since its samples were encoded"
            return NextStep(f"sltool client-encode --site {name}", why)
        if self.shipped_to:
            return NextStep("", f"nothing; the shards are in {', '.join(self.shipped_to)}")
        privacy = self._study.privacy
        if privacy.is_set and not self._is_audited:
            budget = " --budget thorough" if privacy.audit == "thorough" else ""
            why = "the study asks for it before anything leaves"
            return NextStep(f"sltool audit --site {name}{budget}", why)
        audited = "" if self._is_audited else "; `sltool audit` and `sltool inspect` before it"
        return NextStep(f"sltool ship --site {name} --to DIR|URL", f"sends the outbox{audited}")

    @property
    def _is_encoded(self) -> bool:
        record = self._record
        if record is None or record["state"].get("encoding") != self._encoding:
            return False
        return is_complete(self._site, record["shards"])

    @property
    def _is_audited(self) -> bool:
        """Whether the audit is of the shards in the outbox."""
        if self._record is None or not self._site.audit.is_file():
            return False
        audit = read_json(self._site.audit, AuditRecord, "the audit", DAMAGED)
        try:
            payloads = {
                name: read_manifest(self._site.outbox / name)[0].payload.sha256
                for name in self._record["shards"]
            }
        except SltoolError:
            # `ship` and `inspect` say what is wrong with the shard.
            return False
        return audit["bound"]["payloads"] == payloads

    def _destinations(self) -> list[str]:
        """Where every shard and withdrawal of the outbox was shipped to."""
        site, record = self._site, self._record
        shipped = read_record(site.shipped, ShippedRecord) or {}
        if record is None or not self._is_encoded:
            return []
        # Digests would have to be computed; a later encoding has a later record.
        if not shipped or any(
            is_newer(path, site.shipped) for path in (site.encoded, site.encoded_cases)
        ):
            return []
        cases = read_record(site.encoded_cases, EncodedRecord)
        wanted = {*record["shards"], *self._withdrawals, *(cases["shards"] if cases else ())}
        return [destination for destination, files in shipped.items() if wanted <= files.keys()]
