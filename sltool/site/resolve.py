"""`resolve`: join the server's predictions to the patients at the site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sltool.errors import BadDataError, StageOrderError
from sltool.files import remove, write_csv
from sltool.shard.answer import Answer, Trained, read_answer
from sltool.shard.encryption import SUFFIX as AGE
from sltool.shard.encryption import decrypt
from sltool.site.withdrawals import CASE_COLUMNS, read_people
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import Labels, Study

PEOPLE = ("record", "patient", "examination", "pseudonym")


@dataclass(frozen=True)
class Resolved:
    """The site's table of predictions, and where they come from.

    Attributes:
        file: the private table.
        made: the time of the predictions, UTC, ISO 8601.
        points: the operating points of the table's decisions.
    """

    site: str
    cases: int
    file: Path
    run: str
    model: str
    made: str
    trained: Trained
    points: list[str]


def resolve(
    folder: StudyFolder,
    study: Study,
    site_name: str,
    path: Path,
    server_key: str | None,
    out: Path | None,
) -> Resolved:
    """Verify an answer, and write its predictions with the records and patients of the site.

    Args:
        path: the file from the server, encrypted or not.
        server_key: the server's public key; None: as in study.yaml.
        out: the table; None: `sites/SITE/prediction/NAME.csv`.

    Raises:
        StageOrderError: there is no server's key, or the site has encoded no cases.
        NotTrustedError, StudyMismatchError, ShardRefusedError: as `read_answer`.
        BadDataError: no case of the answer is one of this site's.
    """
    study.check_sites([site_name])
    site = folder.site(site_name)
    key = server_key or study.server.key
    if key is None:
        raise StageOrderError(
            "the server's public key is not known here",
            where=folder.study_file,
            expected="server.key: ed25519:..., the line that `sltool server-keys` prints",
            hint="enter it in study.yaml, or give --server-key; compare it on the telephone",
        )
    meaning = study.meaning(folder.privacy_layer)
    with _plain(site, path) as plain:
        answer = read_answer(plain, study, site_name, key, meaning)
    people = {row["pseudonym"]: row for row in read_people(site.case_pseudonyms, CASE_COLUMNS)}
    known = [name in people for name in answer.pseudonyms]
    if not all(known):
        raise BadDataError(
            f"{known.count(False)} of the {len(known)} cases are not known at this site",
            where=path,
            expected=f"pseudonyms of {site.case_pseudonyms}",
            hint="bring that table back from a backup, or resolve the file where it was encoded",
        )
    table = out or site.cases / f"{path.name.removesuffix(AGE).rsplit('.', 1)[0]}.csv"
    write_csv(table, _rows(answer, people))
    return Resolved(
        site=site_name,
        cases=len(answer.pseudonyms),
        file=table,
        run=answer.run,
        model=answer.model,
        made=answer.made,
        trained=answer.trained,
        points=[point.name for point in answer.points],
    )


@contextmanager
def _plain(site: SiteFolder, path: Path) -> Iterator[Path]:
    """The file itself, or its decrypted contents while the context lasts."""
    if path.suffix != AGE:
        yield path
        return
    decrypt(path, site.decrypted_answer, site.identity)
    try:
        yield site.decrypted_answer
    finally:
        remove(site.decrypted_answer)


def _rows(answer: Answer, people: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, object]]:
    columns = _columns(answer.labels)
    decisions = {
        f"decision at {point.name}": [
            point.positive if positive else f"not {point.positive}"
            for positive in answer.decisions(point)
        ]
        for point in answer.points
    }
    for index, pseudonym in enumerate(answer.pseudonyms):
        yield {
            **{name: people[pseudonym][name] for name in PEOPLE},
            **dict(zip(columns, answer.values[index], strict=True)),
            **{name: column[index] for name, column in decisions.items()},
            "run": answer.run,
            "made": answer.made,
        }


def _columns(labels: Labels) -> list[str]:
    """The header of each value: the class, or the unit."""
    if labels.kind == "regression":
        return [f"prediction ({labels.unit})" if labels.unit else "prediction"]
    return [f"probability of {name}" for name in labels.classes]
