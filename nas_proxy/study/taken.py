"""References that earlier studies paid for: what is taken from them, and what they have used up.

A study that is named in `calibrate.reference.studies` gives the full trainings of its calibration
sample, where they are of the same images, the same space and the same training; so does a recipe of
the model registry, in whose folder they lie, that `calibrate.reference.registered` names. Those of
a validation are not taken: they were measured on the test split, which chooses nothing. Whoever
names a study has seen what came out of it. So every architecture whose reference it knows, and what
it set aside itself, are set aside by the new study: they may teach, and never judge.

What is found is copied once, so a study does not change when the one that it took from goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import DataError, StudyError, did_you_mean
from nas_proxy.evaluate.log import read_evaluations
from nas_proxy.reproducibility import canonical_json
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.stage_folder import differences
from nas_proxy.tracking.registry.recipes import RegisteredRecipe
from nas_proxy.types import Architecture, Evaluation

_REFERENCES, _IDENTITY, _SET_ASIDE = "trainings.jsonl", "identity.json", "set_aside.json"
_KIND = "no references of this kind"


@dataclass(frozen=True, eq=False)
class Taken:
    """What one earlier study gives.

    Attributes:
        source: Which one, in words.
        evaluations: Full trainings that succeeded, in the order of their architectures' ids.
        set_aside: Architectures whose references are known there, or to studies that it took from.
    """

    source: str
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


def take(layout: StudyLayout, own: Path, name: str, key: str, identity: Mapping[str, Any]) -> Taken:
    """The references of an earlier study, which are copied into this one's folder the first time.

    Args:
        layout: Of the study that takes.
        own: Folder of the copy; `StudyLayout.taken`, unless that is only looked at.
        name: Of the other.
        key: Of the kind of reference, as `StudyLayout.sample_references` has it.
        identity: What the references have to be of.

    Raises:
        StudyError: If the other study has no such references; the message says what differs.
    """
    other = StudyLayout(layout.results, name)
    copy = own / f"{key}.jsonl"
    if not copy.is_file():
        known = {path.parent.name: _identity(path) for path in other.sample_logs()}
        there = known.get(key) or next(filter(None, known.values()), None)
        _check_identity(f"studies names {name!r}", there, identity)
        found = read_evaluations(other.sample_references(key))
        _keep(own, key, found, _set_aside(layout, other))
    return _taken(f"study {name}", own, key)


def take_registered(
    own: Path,
    name: str,
    load: Callable[[str, Path], RegisteredRecipe],
    key: str,
    identity: Mapping[str, Any],
) -> Taken:
    """The same of a recipe in the model registry, in whose folder they lie; see `write_trainings`.

    Args:
        own: As for `take`.
        name: An alias or a version.
        load: Fetches it into a folder, and refuses another space or other images.
        key: As for `take`.
        identity: As for `take`.
    """
    source, folder = own / "source.txt", own / "recipe"
    if not (own / f"{key}.jsonl").is_file():
        found = load(name, folder)
        _check_identity(f"registered names {name!r}", _identity(folder / _REFERENCES), identity)
        aside = _architectures(folder / _SET_ASIDE) + _architectures(folder / "learned_from.json")
        write_atomically(source, f"recipe {found.model}, version {found.version}")
        _keep(own, key, read_evaluations(folder / _REFERENCES), aside)
    return _taken(source.read_text(), own, key)


def write_trainings(
    folder: Path, evaluations: Iterable[Evaluation], identity: Mapping[str, Any]
) -> None:
    """Write references into the folder of a recipe, from which other studies may take them."""
    lines = (f"{canonical_json(each.to_json())}\n" for each in evaluations)
    write_atomically(folder / _REFERENCES, "".join(lines))
    write_atomically(folder / _IDENTITY, json.dumps(identity, indent=1))


def write_set_aside(layout: StudyLayout) -> None:
    """Write into the folder of a study's recipe what must not judge whoever takes from it."""
    seen = _looked_at(layout)
    write_atomically(layout.recipe / _SET_ASIDE, json.dumps([a.to_json() for a in seen]))


def write_identity(log: Path, identity: Mapping[str, Any]) -> None:
    """Say beside a log of references what they are of."""
    path = log.with_name(_IDENTITY)
    if not path.is_file():
        write_atomically(path, json.dumps(identity, indent=1))


def _check_identity(
    option: str, there: Mapping[str, Any] | None, identity: Mapping[str, Any]
) -> None:
    if there == identity:
        return
    why = "it has trained no reference for a calibration, or did so before this was recorded"
    if there is not None:
        why = "; ".join(differences(dict(there), dict(identity)))
    raise StudyError(
        f"calibrate.reference.{option}, which has {_KIND} ({why}); take it out of the list, or "
        "ask for what it has"
    )


def _keep(
    own: Path, key: str, found: Iterable[Evaluation], set_aside: Iterable[Architecture]
) -> None:
    """Copy what is taken; the trainings last, for they say that all is there."""
    lines = [f"{canonical_json(each.to_json())}\n" for each in found if each.complete]
    plain = [architecture.to_json() for architecture in set_aside]
    write_atomically(own / _SET_ASIDE, json.dumps(plain))
    write_atomically(own / f"{key}.jsonl", "".join(lines))


def _taken(source: str, own: Path, key: str) -> Taken:
    best: dict[str, Evaluation] = {}
    for each in sorted(read_evaluations(own / f"{key}.jsonl"), key=lambda found: found.seed):
        best.setdefault(each.architecture.id, each)
    evaluations = tuple(best[name] for name in sorted(best))
    return Taken(source, evaluations, tuple(_architectures(own / _SET_ASIDE)))


def _architectures(path: Path) -> list[Architecture]:
    found = json.loads(path.read_text()) if path.is_file() else []
    return [Architecture.from_json(each) for each in found]


def _identity(log: Path) -> Mapping[str, Any] | None:
    path = log.with_name(_IDENTITY)
    return json.loads(path.read_text()) if path.is_file() else None


def _set_aside(layout: StudyLayout, other: StudyLayout) -> list[Architecture]:
    """What the other study has used up, by now or when it was first taken from."""
    kept = layout.taken(other.study_name) / _SET_ASIDE
    return _architectures(kept) if kept.is_file() else _looked_at(other)


def _looked_at(study: StudyLayout) -> list[Architecture]:
    """All whose references a study knows, and what those have used up that it took from."""
    guards = (study.guard_log(), study.guard_log(study.before_recalibration.name))
    logs = [*study.sample_logs(), *guards]
    for stage in ("calibrate", "validate", "retrain"):
        logs += study.stage_logs(stage)
    seen = [each.architecture for log in logs for each in read_evaluations(log)]
    for path in sorted(study.calibration_samples.glob(f"from/*/{_SET_ASIDE}")):
        seen += _architectures(path)
    return sorted(set(seen), key=lambda architecture: architecture.id)
