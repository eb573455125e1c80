"""`audit` in a study's folder: skips finished work, and writes `audit.json` and `audit.html`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sltool.files import read_json, remove, write_json, write_text
from sltool.progress import Progress
from sltool.site import log
from sltool.site.audit.attacker import BUDGETS
from sltool.site.audit.document import document
from sltool.site.audit.page import page
from sltool.site.audit.record import DAMAGED, AuditRecord, audit_subject
from sltool.site.audit.run import audit
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study


def audit_site(
    folder: StudyFolder,
    study: Study,
    name: str,
    budget: str,
    auxiliary: Path | None,
    device: torch.device,
    progress: Progress,
    force: bool,
) -> dict[str, Any]:
    """Attack the shards of a site and write `sites/NAME/audit.json` and `audit.html`.

    An audit of exactly these shards with this budget is not repeated, unless public images are
    given.

    Returns:
        The content of `audit.json`.

    Raises:
        StageOrderError: nothing is encoded.
        BadDataError: there are too few samples or patients.
    """
    study.check_sites([name])
    site = folder.site(name)
    if not force and auxiliary is None and site.audit.is_file() and site.audit_page.is_file():
        # `AuditRecord` names only some of the keys.
        before: dict[str, Any] = dict(read_json(site.audit, AuditRecord, "the audit", DAMAGED))
        subject = audit_subject(folder, study, site)
        if before["bound"] == subject and before["budget"] == budget:
            progress.note(f"site {name}: these shards have already been audited")
            return before
    remove(site.audit)
    result = audit(folder, study, name, BUDGETS[budget], auxiliary, device, progress)
    written = document(result)
    write_text(site.audit_page, page(result))
    log.append(
        site,
        "audited",
        budget=budget,
        attack=written["attack"],
        leak=written["leak"]["value"],
        encoding=written["bound"]["encoding"],
        payloads=written["bound"]["payloads"],
    )
    write_json(site.audit, written)
    return written
