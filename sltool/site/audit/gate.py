"""The study's privacy limits: `ship` refuses shards that exceed them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from sltool.errors import PrivacyLimitError, UsageError
from sltool.files import read_json, write_json
from sltool.progress import Progress
from sltool.shard.manifest import AcceptedRisk
from sltool.shard.reader import read_manifest
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL
from sltool.shard.writer import sign_again
from sltool.site import log
from sltool.site.audit.record import DAMAGED, AuditRecord, audit_subject
from sltool.site.enrol import site_key
from sltool.site.outbox import last_batch, outbox_cases, outbox_shards, was_shipped
from sltool.site.releases import record_release
from sltool.site.ship import ShippingResult, ship
from sltool.site.stage_records import EncodedRecord, read_record
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import Study

# Key in study.yaml -> key in audit.json.
LIMITS = {
    "max_leak": "leak",
    "max_linkage": "linkage_top1",
    "max_exact_recovery": "exact_recovery",
}


def ship_within_limits(
    folder: StudyFolder,
    study: Study,
    name: str,
    destination: str,
    progress: Progress,
    force: bool,
    accept_risk: str | None,
    only_new: bool = False,
) -> ShippingResult:
    """`ship`, unless the study's `privacy` section forbids it.

    Withdrawals are shipped in any case.

    Args:
        accept_risk: the reason to ship nevertheless; it is written to the signed manifests.

    Raises:
        PrivacyLimitError: the shards exceed a limit, or were not audited.
        UsageError: the reason is not valid in a manifest.
        StageOrderError: nothing is encoded.
    """
    site = folder.site(name)
    log.clean_up(site)
    recipient = study.server.recipient
    withdrawals = any(site.outbox.glob(f"*{WITHDRAWAL}"))
    cases = outbox_cases(site)
    if site.encoded.is_file() or cases or not withdrawals:
        refused = _refusal(folder, study, site)
        if refused is None and accept_risk is not None:
            progress.note(f"site {name}: there is no risk to accept by the study's `privacy`")
        if refused is not None and not _risk_accepted(study, site, refused, accept_risk):
            if withdrawals:
                ship(site, destination, recipient, progress, force, only_withdrawals=True)
                progress.note(f"site {name}: the withdrawals were shipped, the shards were not")
            raise refused
    if site.encoded.is_file():
        # Counted before the first byte leaves.
        record_release(site)
    return ship(site, destination, recipient, progress, force, only_new=only_new)


def _risk_accepted(
    study: Study, site: SiteFolder, refused: PrivacyLimitError, accept_risk: str | None
) -> bool:
    """Whether the risk is accepted: by `accept_risk`, or in the manifests of the last encoding.

    Shards that were shipped before are not signed again: the server has them as they are.
    """
    shards = [*(outbox_shards(site) if site.encoded.is_file() else []), *outbox_cases(site)]
    if accept_risk is None:
        last = {*last_batch(site.encoded), *last_batch(site.encoded_cases)}
        accepted = [read_manifest(path)[0].accepted_risk for path in shards if path.name in last]
        return all(risk is not None and risk.refusal == refused.reason for risk in accepted)
    try:
        risk = AcceptedRisk(reason=accept_risk, refusal=refused.reason)
    except ValidationError as error:
        raise UsageError(
            "the reason of --accept-risk is not valid in a manifest",
            expected="1 to 200 printable characters on one line",
        ) from error
    new = [path for path in shards if not was_shipped(site, path.name)]
    # Before the manifests change: a risk that is accepted and not logged must not exist.
    payloads = {path.name: read_manifest(path)[0].payload.sha256 for path in new}
    log.append(site, "accepted-risk", reason=risk.reason, refusal=risk.refusal, payloads=payloads)
    _sign_all(new, risk, study, site)
    return True


def _sign_all(shards: Sequence[Path], risk: AcceptedRisk, study: Study, site: SiteFolder) -> None:
    """Add the accepted risk to these manifests and sign them again, in their new series."""
    key = site_key(site, study)
    previous: dict[str, str] = {}
    digests: dict[str, str] = {}
    for path in shards:
        manifest = read_manifest(path)[0]
        split = manifest.place.split
        changes = {"accepted_risk": risk, "previous": previous.get(split, manifest.previous)}
        new = manifest.model_copy(update=changes)
        if new != manifest:
            sign_again(path, new, key)
        digests[path.name] = previous[split] = new.digest
    for path in (site.encoded, site.encoded_cases):
        record = read_record(path, EncodedRecord)
        if record is not None:
            changed = {name: digests[name] for name in record["shards"] if name in digests}
            write_json(path, {**record, "digests": {**record.get("digests", {}), **changed}})


def _refusal(folder: StudyFolder, study: Study, site: SiteFolder) -> PrivacyLimitError | None:
    """The error to raise if the study's `privacy` section forbids shipping the outbox, else None.

    Raises:
        StageOrderError: nothing is encoded.
        BadDataError: `audit.json` is damaged.
    """
    if not study.privacy.is_set:
        return None
    level = study.privacy.audit or "quick"
    command = f"sltool audit --site {site.name}" + (
        " --budget thorough" if level != "quick" else ""
    )
    if not site.audit.is_file():
        return _refused(site, "the shards have not been audited", f"run `{command}`")
    record = read_json(site.audit, AuditRecord, "the audit", DAMAGED)
    stale = _audited_instead(folder, study, site, record)
    if stale:
        return _refused(site, f"the audit is of {stale}", f"run `{command}` again")
    if level == "thorough" and record["budget"] != "thorough":
        return _refused(site, "the study asks for a thorough audit", f"run `{command}`")
    exceeded = _exceeded(study, record)
    if exceeded:
        return _refused(
            site,
            "; ".join(exceeded),
            "agree on a privacy layer that leaks less (a code that `sltool fit-privacy-layer` "
            "fits, more noise, fewer channels), or ship with "
            '--accept-risk "REASON", which is shown to the server',
        )
    return None


def _audited_instead(
    folder: StudyFolder, study: Study, site: SiteFolder, record: AuditRecord
) -> str:
    """What the audit examined instead of the shards in the outbox; '' if it examined these."""
    audited, outbox = record["bound"], audit_subject(folder, study, site)
    if audited["encoding"] != outbox["encoding"]:
        return "another encoding (its digest differs)"
    if audited["private"] != outbox["private"]:
        return "other samples or another seed (private.h5 differs)"
    if audited["payloads"] != outbox["payloads"]:
        return "other shards (client-encode ran again)"
    return ""


def _exceeded(study: Study, record: AuditRecord) -> list[str]:
    """'leak is 0.93, more than privacy.max_leak: 0.3' for each limit that is exceeded."""
    exceeded = []
    for key, name in LIMITS.items():
        limit = getattr(study.privacy, key)
        if limit is None:
            continue
        value = record[name]["value"]  # type: ignore[literal-required]
        if value > limit:
            exceeded.append(f"{name} is {value:.3g}, more than privacy.{key}: {limit:g}")
    return exceeded


def _refused(site: SiteFolder, what: str, hint: str) -> PrivacyLimitError:
    return PrivacyLimitError(
        site.name,
        what,
        where=site.audit,
        expected="an audit of exactly these shards, within the limits of `privacy` in study.yaml",
        hint=hint,
    )
