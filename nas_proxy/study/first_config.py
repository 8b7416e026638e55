"""A commented configuration for somebody's own images, which runs as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nas_proxy.data.descriptions import DATASET_WORDS
from nas_proxy.data.folder import printable
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.survey import FolderSurvey, survey_folder
from nas_proxy.errors import DataError, did_you_mean
from nas_proxy.statistics.base_rate import is_uneven
from nas_proxy.study.config import check_config
from nas_proxy.types import Progress, no_progress

_DEFAULT_SIZE = 64  # of data sets whose images have no size in common
_FEWEST = 3  # images of a class: to train, to validate, to test
_BUDGET = "10min"


@dataclass(frozen=True)
class FirstConfig:
    """A configuration file, and what was seen while it was written.

    Attributes:
        study_name: Of the study.
        text: Of the file.
        findings: What a person should know of the images, a sentence each.
    """

    study_name: str
    text: str
    findings: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """The section `data`, and what is said of it."""

    name: str
    section: dict[str, Any]
    facts: tuple[str, ...]
    remarks: dict[str, str]


def first_config(source: str, *, progress: Progress = no_progress) -> FirstConfig:
    """Look at images and write a configuration for them.

    Args:
        source: A folder of images, or a data set's name; a folder of that name comes first.
        progress: Told about image files that are opened.

    Raises:
        DataError: If it is neither, or the folder cannot be used; the message says what to do.
    """
    if source != printable(source):
        raise DataError(
            f"the name {printable(source)!r} is not UTF-8 text, which a configuration is written "
            "in; rename the folder"
        )
    folder = Path(source).expanduser()
    if folder.is_dir():
        found = _of_folder(folder, source, survey_folder(folder, progress=progress))
    elif source in DATASET_WORDS and source != "image_folder":
        found = _of_dataset(source)
    else:
        raise DataError(
            f"{source!r} is neither a folder nor a data set; give a folder with train/<class>/* "
            f"or <class>/*, or a name: {did_you_mean(source, _named_sets())}"
        )
    text = _text(found)
    check_config(yaml.safe_load(text))
    return FirstConfig(found.name, text, found.facts)


def _named_sets() -> list[str]:
    return [name for name in DATASET_WORDS if name != "image_folder"]


def _of_folder(folder: Path, source: str, survey: FolderSurvey) -> _Found:
    size, counts = survey.image_size, survey.counts
    needed = _FEWEST if survey.num_test is None else _FEWEST - 1
    kept = {name: num for name, num in counts.items() if num >= needed}
    if len(kept) < 2:
        raise DataError(
            f"{source} has fewer than two classes with at least {needed} readable images "
            f"({_count_words(counts)}); give them more"
        )
    section: dict[str, Any] = {"name": "image_folder", "root": source, "image_size": size}
    facts = [
        f"{survey.num_images} images of {len(counts)} classes: {_count_words(counts)}",
        _test_words(survey),
        f"shorter side: {survey.shorter_side} pixels (median), {survey.smallest} (smallest); "
        f"image_size is {size}",
    ]
    if len(kept) < len(counts):
        section["classes"] = list(kept)
        few = [name for name in counts if name not in kept]
        facts.append(
            f"left out for fewer than {needed} readable images: {', '.join(map(repr, few))}"
        )
    if is_uneven(list(kept.values())):
        largest = max(kept, key=kept.__getitem__)
        share = 100 * kept[largest] / sum(kept.values())
        facts.append(
            f"the classes are uneven: always answering {largest!r} is right for {share:.1f} %, so "
            "read accuracies against that"
        )
    if survey.unreadable:
        shown = ", ".join(survey.unreadable[:5])
        more = f" and {len(survey.unreadable) - 5} more" if len(survey.unreadable) > 5 else ""
        facts.append(
            f"{len(survey.unreadable)} files cannot be read as images, and nas-proxy run refuses "
            f"them: replace or delete {shown}{more}"
        )
    facts += [survey.notice] if survey.notice else []
    remarks = {"image_size": _size_remark(size, survey.shorter_side)}
    return _Found(_name_of(folder.resolve().name), section, tuple(facts), remarks)


def _size_remark(size: int, side: int) -> str:
    if side > size:
        return f"of {side}; twice the size takes about four times as long"
    return "small images are enlarged to it" if side < size else "as they are"


def _test_words(survey: FolderSurvey) -> str:
    if survey.num_test is None:
        return "no test part: a fifth of each class is held out and looked at once, at the end"
    return f"{survey.num_test} images of the folder's own test part, looked at once, at the end"


def _of_dataset(name: str) -> _Found:
    section: dict[str, Any] = {"name": name}
    facts, remarks = [DATASET_WORDS[name].summary], {}
    if DATASET_WORDS[name].needs_size:
        section["image_size"] = _DEFAULT_SIZE
        remarks["image_size"] = "its images have no size in common"
    try:
        splits = load_splits(DataSettings(**section))
    except DataError as error:
        section["download"] = True
        remarks["download"] = "nas-proxy run fetches it from its authors' site"
        facts.append(f"it is not on this machine ({error}); the config asks for the download")
    else:
        parts = (splits.search_train, splits.search_val, splits.test)
        numbers = " + ".join(str(len(part)) for part in parts)
        facts.append(
            f"{numbers} images to train, to validate and to test, "
            f"{splits.spec.num_classes} classes, {'x'.join(map(str, splits.spec.image_shape))}"
        )
    return _Found(_name_of(name), section, tuple(facts), remarks)


def _name_of(text: str) -> str:
    """A study's name that resembles a text."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:100]
    return name or "study"


def _count_words(counts: dict[str, int]) -> str:
    numbers = set(counts.values())
    if len(numbers) == 1:
        return f"{numbers.pop()} of each"
    shown = [f"{num} {name!r}" for name, num in list(counts.items())[:10]]
    more = f" and {len(counts) - 10} more classes" if len(counts) > 10 else ""
    return ", ".join(shown) + more


def _text(found: _Found) -> str:
    facts = "\n".join(f"# - {fact}" for fact in found.facts)
    data = "\n".join(
        f"  {key}: {_scalar(value)}"
        + (f"   # {found.remarks[key]}" if key in found.remarks else "")
        for key, value in found.section.items()
    )
    return f"""\
# Made by nas-proxy init. What was found:
{facts}
#
# nas-proxy plan THIS_FILE   what will be done, and how long it takes here
# nas-proxy run THIS_FILE    does it; after Ctrl-C the same command goes on
study_name: {found.name}

# By the clock. Whatever is not said below is scaled to fit (docs/defaults.md); 2h finds more.
budget: {_BUDGET}

data:
{data}

# What is searched: convnet, nasbench201, or your own, as my_space.py:MySpace.
space:
  name: convnet

# What is said here is kept as it is, whatever the budget:
# train: {{learning_rate: 0.02, augmentation: {{flip: true}}}}   # of candidates and full trainings
# search: {{n_trials: 50}}
# validate: null      # no verdict on the ranking
# retrain: null       # no model in the end
"""


def _remark(text: str | None) -> str:
    return "" if text is None else f"   # {text}"


def _scalar(value: Any) -> str:
    """A value as YAML, on one line."""
    dumped: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return dumped.removesuffix("\n").removesuffix("...").strip()
