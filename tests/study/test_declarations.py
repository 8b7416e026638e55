"""What stages declare, and what the page about them says of it."""

import re
from pathlib import Path
from typing import get_args

import pytest

from nas_proxy.data.sources import load_splits
from nas_proxy.errors import StudyError
from nas_proxy.study.all_stages import STAGES
from nas_proxy.study.config import _Sections, check_config
from nas_proxy.study.context import StudyContext
from nas_proxy.study.logs import StudyLogs
from nas_proxy.study.stage import Section, Source, StageName, refuse_other_configuration
from nas_proxy.study.stage_folder import StageFolder
from tests.helpers.display import Quiet

PAGE = (Path(__file__).parents[2] / "docs" / "stages.md").read_text()
MINIMAL = {
    "study_name": "tiny",
    "distill": {"name": "random_subset"},
    "space": {"name": "convnet"},
    "train": {"num_steps": 5},
    "validate": {"reference": {"train": {"num_steps": 5}}},
    "retrain": {"train": {"num_steps": 5}},
    "calibrate": {"reference": {"train": {"num_steps": 5}}},
}
SECTIONS = {field.alias or name for name, field in _Sections.model_fields.items()}


def read(section: Section) -> str:
    named = f"`{section.name}`"
    if section.keys:
        keys = [key for key in section.keys if key != section.growing]
        named = ", ".join(f"`{section.name}.{key}`" for key in keys)
    words = section.when.words
    return f"{named} ({words})" if named and words else named


def source_in_words(source: Source) -> str:
    words = [f"of `{source.stage}`"] if source.stage else []
    words += [source.when.words] if source.when.words else []
    return f"{source.name} ({', '.join(words)})" if words else source.name


def keys(section: Section, names: tuple[str | None, ...]) -> list[str]:
    return [f"`{section.name}.{name}`" for name in names if name is not None]


def table() -> str:
    lines = [
        "| stage | refused when this changes | goes on when this changes | may change freely |",
        "|---|---|---|---|",
    ]
    for stage in STAGES:
        if stage.always_runs:
            lines.append(f"| `{stage.name}` | always runs, for it is cheap | | |")
            continue
        anew = [read(section) for section in stage.reads] + [
            source_in_words(s) for s in stage.sources if not s.continued
        ]
        goes_on = [key for s in stage.reads for key in keys(s, (*s.continued, s.growing))]
        goes_on += [source_in_words(s) for s in stage.sources if s.continued]
        free = [key for section in stage.reads for key in keys(section, section.free)]
        cells = (", ".join(filter(None, cell)) for cell in (anew, goes_on, free))
        lines.append(f"| `{stage.name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_page_says_what_is_repeated_when() -> None:
    found = re.search(r"<!-- stages -->\n(.*?)\n<!-- /stages -->", PAGE, re.DOTALL)
    assert found is not None, f"the page lacks the table:\n{table()}"
    assert found[1] == table(), f"the table of the stages should read:\n{table()}"


def test_every_stage_is_declared_once_and_in_order() -> None:
    assert tuple(stage.name for stage in STAGES) == get_args(StageName)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_what_a_stage_reads_is_there(stage) -> None:
    config = check_config(MINIMAL)
    for section in stage.reads:
        assert section.name in SECTIONS
        if not section.when.holds(config):
            continue
        names = (*(section.keys or ()), *section.free, *section.continued)
        known = config.resolved[section.name] if any(names) or section.growing else {}
        for key in (*names, *([section.growing] if section.growing else ())):
            *outer, inner = key.split(".")
            within = known[outer[0]] if outer else known
            assert inner in within, f"{section.name} has no key {key}"
    names = [section.name for section in stage.reads] + [source.name for source in stage.sources]
    assert len(names) == len(set(names)), "a record holds them side by side"
    earlier = [each.name for each in STAGES[: STAGES.index(stage)]]
    assert all(source.stage in (None, *earlier) for source in stage.sources)


def test_no_section_that_changes_results_is_forgotten() -> None:
    declared = {section.name for stage in STAGES for section in stage.reads}
    # Where things are, how they are shown, and how fast; and what commands of their own read.
    beside = {"study_name", "device", "cuda_graph", "num_threads", "results", "tracking"}
    beside.add("budget")  # spelt out in the sections that it scales
    assert declared | beside | {"evaluate_proxy", "pretrain"} == SECTIONS


ELSEWHERE = {"data": {"name": "cifar10", "root": "elsewhere"}}
BEFORE = {**MINIMAL, "data": {"name": "cifar10", "root": "here"}}
CHANGES = [
    ("distill", {"distill": {"name": "random_subset", "images_per_class": 3}}, "images_per_class"),
    ("distill", {"distill": {"name": "random_subset", "num_workers": 3}}, ""),
    ("distill", ELSEWHERE, ""),
    ("distill", {"seed": 1}, "seed: 0 -> 1"),
    ("calibrate", {"train": {"num_steps": 6}}, "train.num_steps: 5 -> 6"),
    (
        "calibrate",
        {"calibrate": {**MINIMAL["calibrate"], "threshold": 0.5, "num_architectures": 30}},
        "",
    ),
    ("search", {"search": {"n_trials": 7, "executor": "serial"}}, ""),
    ("search", {"search": {"sampler": "random"}}, "search.sampler: tpe -> random"),
    ("search", {"device": "cuda", "cuda_graph": True, "num_threads": 4}, ""),
    ("validate", {"validate": {"reference": {"train": {"num_steps": 6}}}}, "validate.reference"),
    ("validate", {"validate": {"reference": {"table": "t.csv"}}}, "validate.reference.train"),
    ("retrain", {"retrain": {"train": {"num_steps": 6}}}, "retrain.train.num_steps: 5 -> 6"),
    ("retrain", {"search": {"n_trials": 99}}, ""),
]


@pytest.mark.parametrize(("name", "change", "refused"), CHANGES)
def test_a_change_is_refused_or_allowed_as_declared(tmp_path, name, change, refused) -> None:
    before = check_config({**BEFORE, "results": str(tmp_path)})
    now = check_config({**BEFORE, **change, "results": str(tmp_path)})
    stage = next(each for each in STAGES if each.name == name)
    path = before.layout.stage(name)
    assert StageFolder(path, 1, stage.sections(before)).open(force=False)
    others = [each for each in STAGES if each is not stage]
    refuse_other_configuration(others, now, now.layout)  # they were not run
    if not refused:
        refuse_other_configuration(STAGES, now, now.layout)
        return
    with pytest.raises(StudyError, match=re.escape(refused)):
        refuse_other_configuration(STAGES, now, now.layout)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"search": {"sampler": "random"}}, "search.sampler: tpe -> random"),
        ({"search": {"guard": {"every": 5, "train": {"num_steps": 5}}}}, "search.guard.every"),
        ({"train": {"num_steps": 6}}, "train.num_steps: 5 -> 6"),
        ({"distill": {"name": "random_subset", "images_per_class": 3}}, "images_per_class"),
        ({"validate": {**MINIMAL["validate"], "k": 3}}, "validate.k"),
        ({"retrain": {**MINIMAL["retrain"], "num_seeds": 2}}, "retrain.num_seeds: 3 -> 2"),
        ({"search": {"n_trials": 99}, **ELSEWHERE}, ""),
    ],
)
def test_a_finished_study_refuses_what_any_of_its_stages_read(tmp_path, change, refused) -> None:
    before = check_config({**BEFORE, "results": str(tmp_path)})
    now = check_config({**BEFORE, **change, "results": str(tmp_path)})
    for stage in STAGES:
        if not stage.always_runs:
            folder = StageFolder(before.layout.stage(stage.name), 1, stage.sections(before))
            folder.open(force=False)
    if not refused:
        refuse_other_configuration(STAGES, now, now.layout)
        return
    with pytest.raises(StudyError, match=re.escape(refused)) as found:
        refuse_other_configuration(STAGES, now, now.layout)
    assert str(found.value).count(refused) == 1


def test_a_method_that_learns_from_architectures_reads_how_many(tmp_path) -> None:
    learns = {**MINIMAL, "results": str(tmp_path), "distill": {"name": "rank_aware"}}
    before = check_config(learns)
    more = check_config({**learns, "calibrate": {**MINIMAL["calibrate"], "num_architectures": 60}})
    distill = STAGES[0]
    StageFolder(before.layout.stage("distill"), 1, distill.sections(before)).open(force=False)
    with pytest.raises(StudyError, match="calibrate.num_architectures: 48 -> 60"):
        refuse_other_configuration(STAGES, more, more.layout)


@pytest.mark.parametrize(("networks", "refused"), [("search_space", True), ("convnet", False)])
def test_the_space_is_a_source_of_a_set_that_is_made_with_its_networks(
    tmp_path, networks, refused
) -> None:
    draws = {
        **MINIMAL,
        "results": str(tmp_path),
        "distill": {"name": "distribution_matching", "networks": networks},
    }
    before = check_config(draws)
    other = check_config({**draws, "space": {"name": "convnet", "widths": [8]}})
    distill = STAGES[0]
    sources = [source.name for source in distill.sources if source.when.holds(before)]
    assert ("search space" in sources) is refused
    StageFolder(before.layout.stage("distill"), 1, distill.sections(before)).open(force=False)
    if not refused:
        refuse_other_configuration(STAGES, other, other.layout)
        return
    with pytest.raises(StudyError, match="space.widths"):
        refuse_other_configuration(STAGES, other, other.layout)


# Nothing is left to be timed: there may be no GPU.
ON_GPU = {
    **MINIMAL,
    "device": "cuda",
    "train": {**MINIMAL["train"], "precision": "float32", "channels_last": True},
}


def test_a_cuda_graph_is_asked_for_where_candidates_train() -> None:
    for given in (False, True):
        config = check_config({**ON_GPU, "cuda_graph": given})
        splits = load_splits(config.data)
        study = StudyContext(config, splits, FourWorkers(), None, Quiet(), StudyLogs())
        factory = study.factories.on_full_data(config.train, "search_val")
        assert factory.cuda_graph is given


class FourWorkers:
    num_workers = 4


@pytest.mark.parametrize(("executor", "num_slots"), [("serial", 1), ("processes", 4)])
def test_workers_on_one_device_know_of_one_another(executor, num_slots) -> None:
    told = {"executor": executor, "num_workers": 4} if num_slots > 1 else {"executor": executor}
    config = check_config({**ON_GPU, "search": told})
    study = StudyContext(
        config, load_splits(config.data), FourWorkers(), None, Quiet(), StudyLogs()
    )
    factory = study.factories.on_full_data(config.train, "search_val")
    assert factory.num_slots == num_slots
