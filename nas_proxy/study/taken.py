"""References that earlier studies paid for: what is taken from them, and what they have used up.

A study that is named in `calibrate.reference.studies` gives the full trainings of its calibration
sample, where they are of the same images, the same space and the same training. Those of its
validation are not taken: they were measured on the test split, which chooses nothing. Whoever names
a study has seen what came out of it. So every architecture whose reference it knows, and those that
it set aside itself, are set aside by the new study: they may teach, and never judge.

What is found is copied once, so a study does not change when the one that it took from goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import DataError, StudyError, did_you_mean
from nas_proxy.evaluate.log import read_evaluations
from nas_proxy.reproducibility import canonical_json
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.stage_folder import differences
from nas_proxy.types import Architecture, Evaluation


@dataclass(frozen=True, eq=False)
class Taken:
    """What one earlier study gives.

    Attributes:
        study: Its name.
        evaluations: Full trainings that succeeded, in the order of their architectures' ids.
        set_aside: Architectures whose references are known there, or to studies that it took from.
    """

    study: str
    evaluations: tuple[Evaluation, ...]
    set_aside: tuple[Architecture, ...]


def check_studies(layout: StudyLayout, names: Iterable[str]) -> list[Architecture]:
    """Find out before anything is loaded whether studies can be taken from.

    Returns:
        What they set aside.

    Raises:
        DataError: If one does not exist, is the study itself, or has no references.
    """
    found: list[Architecture] = []
    for name in names:
        other = StudyLayout(layout.results, name)
        if name == layout.study_name:
            raise DataError(
                f"calibrate.reference.studies names {name!r}, which is this study; its own "
                "references are used anyway, so take it out"
            )
        if not other.folder.is_dir() and not layout.taken(name).is_dir():
            known = [path.parent.name for path in layout.results.glob("*/config.yaml")]
            raise DataError(
                f"calibrate.reference.studies names {name!r}, but there is no such study in "
                f"{layout.results}; {did_you_mean(name, known)}"
            )
        found += _set_aside(layout, other)
    return found


def take(
    layout: StudyLayout, name: str, key: str, identity: Mapping[str, Any], needed_seed: int
) -> Taken:
    """The references of an earlier study, which are copied into this one's folder the first time.

    Args:
        layout: Of the study that takes.
        name: Of the other.
        key: Of the kind of reference, as `StudyLayout.sample_references` has it.
        identity: What the references have to be of.
        needed_seed: Preferred where an architecture was trained with several.

    Raises:
        StudyError: If the other study has no such references; the message says what differs.
    """
    other, own = StudyLayout(layout.results, name), layout.taken(name)
    copy, aside = own / f"{key}.jsonl", own / "set_aside.json"
    if not copy.is_file():
        found = _matching(other, key, identity)
        set_aside = _set_aside(layout, other)
        write_atomically(aside, json.dumps([a.to_json() for a in set_aside]))
        write_atomically(copy, "".join(f"{canonical_json(e.to_json())}\n" for e in found))
    best: dict[str, Evaluation] = {}
    for each in sorted(read_evaluations(copy), key=lambda e: (e.seed != needed_seed, e.seed)):
        best.setdefault(each.architecture.id, each)
    evaluations = tuple(best[key] for key in sorted(best))
    return Taken(name, evaluations, tuple(_set_aside(layout, other)))


def write_identity(log: Path, identity: Mapping[str, Any]) -> None:
    """Say beside a log of references what they are of."""
    path = log.with_name("identity.json")
    if not path.is_file():
        write_atomically(path, json.dumps(identity, indent=1))


def _matching(other: StudyLayout, key: str, identity: Mapping[str, Any]) -> list[Evaluation]:
    """Complete references of the other study that are of the same kind."""
    known = {path.parent.name: _identity(path) for path in other.sample_logs()}
    if known.get(key) != identity:
        there = known.get(key) or next(filter(None, known.values()), None)
        if there is None:
            why = "it has trained no reference for a calibration, or before this was recorded"
        else:
            why = "; ".join(differences(there, dict(identity)))
        raise StudyError(
            f"calibrate.reference.studies names {other.study_name!r}, which has no references of "
            f"this kind ({why}); take it out of the list, or ask for what it has"
        )
    return [each for each in read_evaluations(other.sample_references(key)) if each.complete]


def _identity(log: Path) -> Mapping[str, Any] | None:
    path = log.with_name("identity.json")
    return json.loads(path.read_text()) if path.is_file() else None


def _set_aside(layout: StudyLayout, other: StudyLayout) -> list[Architecture]:
    """What the other study has used up, by now or when it was first taken from."""
    kept = layout.taken(other.study_name) / "set_aside.json"
    if kept.is_file():
        return [Architecture.from_json(each) for each in json.loads(kept.read_text())]
    guards = (other.guard_log(), other.guard_log(other.before_recalibration.name))
    logs = [*other.sample_logs(), *guards]
    for stage in ("calibrate", "validate", "retrain"):
        logs += other.stage_logs(stage)
    seen = [each.architecture for log in logs for each in read_evaluations(log)]
    for path in sorted(other.calibration_samples.glob("from/*/set_aside.json")):
        seen += [Architecture.from_json(each) for each in json.loads(path.read_text())]
    return sorted(set(seen), key=lambda architecture: architecture.id)
