"""`predict`: answer the sites' new cases with a run's best network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import TypedDict

from sltool.files import Document, parse_json, read_json, sha256, write_json
from sltool.metrics import Array
from sltool.server.evaluation.evaluate import check_run, predict_samples
from sltool.server.evaluation.operating_points import read_points
from sltool.server.store import Store
from sltool.server.training.run import find_run
from sltool.shard.answer import Answer, Point, Trained, write_answer
from sltool.shard.keys import SigningKey, key_id
from sltool.shard.manifest import PREDICTION
from sltool.study.layout import Question, RunFolder, StudyFolder
from sltool.study.schema import Study
from sltool.version import __version__

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SiteAnswer:
    """The predictions for one site's cases: the signed file, perhaps encrypted, and what it says.

    `points` names the operating points that decisions follow from.
    """

    site: str
    cases: int
    file: Path
    run: str
    model: str
    made: str
    trained: Trained
    points: list[str]


class AnsweredRecord(TypedDict):
    """`answered.json`: the SHA-256 of the model, and the digests of the shards it has answered."""

    model: str
    shards: list[str]


def answer_cases(
    folder: StudyFolder,
    study: Study,
    store: Store,
    name: str,
    sites: Sequence[str],
    device: torch.device,
    again: bool,
) -> list[SiteAnswer]:
    """Write a signed answer for each site with cases that the run's model has not answered yet.

    It is encrypted if study.yaml has a recipient for the site.

    Args:
        name: of the run.
        sites: whose cases; none: all.
        again: answer every case.

    Raises:
        UnknownNameError: there is no such run or site.
        UsageError: a site left the study.
        StageOrderError: the run has no model.
        StudyMismatchError: the run was trained with another encoding; the message names the key.
    """
    study.check_taking_part(sites)
    run = find_run(folder, name)
    meaning = study.meaning(folder.privacy_layer)
    check_run(run, study, store, meaning)
    model = sha256(run.model)
    answered = set() if again else _answered(run, model)
    cases = [
        segment
        for segment in store.select(PREDICTION, sites)
        if segment.samples and segment.digest not in answered
    ]
    key = SigningKey.load_or_create(folder.server_key)
    points, trained = _points(run), _trained(run)
    answers = []
    for site in sorted({segment.site for segment in cases}):
        shards = [segment for segment in cases if segment.site == site]
        samples = store.samples(PREDICTION, [site], [segment.digest for segment in shards])
        values = predict_samples(run, study, samples, device)
        answer = Answer(
            study=study.id,
            encoding=store.encoding,
            meaning=meaning,
            site=site,
            key=key_id(key.public),
            run=name,
            model=model,
            made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            tool=f"sltool {__version__}",
            trained=trained,
            labels=study.samples.labels,
            points=points,
            pseudonyms=tuple(id_.decode("ascii") for id_ in samples.pseudonyms.tolist()),
            values=tuple(_rows(values, study.samples.labels.kind == "binary")),
        )
        path = write_answer(folder.answers, answer, key, study.sites[site].recipient)
        answered |= {segment.digest for segment in shards}
        write_json(run.answered, AnsweredRecord(model=model, shards=sorted(answered)))
        answers.append(
            SiteAnswer(
                site=site,
                cases=len(answer.pseudonyms),
                file=path,
                run=name,
                model=model,
                made=answer.made,
                trained=answer.trained,
                points=[point.name for point in points],
            )
        )
    return answers


def _answered(run: RunFolder, model: str) -> set[str]:
    """The shards that this model has answered."""
    if not run.answered.is_file():
        return set()
    hint = "delete the file: then every case is answered again"
    record = read_json(run.answered, AnsweredRecord, "the record of answered cases", hint)
    return set(record["shards"]) if record["model"] == model else set()


def _points(run: RunFolder) -> tuple[Point, ...]:
    """The operating points for single images of all sites; () if none fit the present model."""
    found = read_points(run, Question())
    if found is None:
        return ()
    return tuple(
        Point(name=point["name"], positive=found["positive"], threshold=point["threshold"])
        for point in found["points"]
    )


def _trained(run: RunFolder) -> Trained:
    # Imported here: it imports torch, which is slow.
    from sltool.server.training.run_files import read_card

    card = read_card(run.model)
    hint = f"train again with `sltool server-train --run {run.name} --force`"

    def part(key: str, kind: type[Document]) -> Document:
        return parse_json(card.get(key, ""), kind, run.model, "the model's record", hint)

    return Trained(
        sites=part("sites", dict[str, int]),
        best_epoch=part("best_epoch", int),
        validation=part("metrics", dict[str, float]),
    )


def _rows(values: Array, two_classes: bool) -> list[tuple[float, ...]]:
    """Values (N,), or probabilities (N, classes), as rows; of two classes (N,), both."""
    if values.ndim == 1 and two_classes:
        values = np.stack([1 - values, values], axis=1)
    return [tuple(row) for row in values.reshape(len(values), -1).tolist()]
