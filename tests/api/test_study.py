"""A study from Python is that of a file: the same identity, results and sentences."""

import inspect
import re
from dataclasses import asdict

import pytest
import yaml

import nas_proxy as nas
from nas_proxy.api.results import Verdict
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.search.settings import SearchSettings
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study.config import load_config, section_names
from nas_proxy.study.stage import recorded_inputs
from nas_proxy.train.settings import TrainSettings
from tests.helpers.display import Quiet

TRAIN = {"num_steps": 3, "batch_size": 8, "learning_rate": 0.02}
SECTIONS = {
    "data": {"name": "digits", "images_per_class": 20},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [8], "depths": [1, 2]},
    "train": TRAIN,
    "score": {"signals": ["val_loss"]},
    "search": {"n_trials": 2, "sampler": "random"},
    "tracking": {"enabled": False},
}
QUIET = Quiet()


def study(folder, **sections):
    return nas.Study("small", results=folder, **{**SECTIONS, **sections})


def written(folder, **sections):
    file = folder / "small.yaml"
    content = {"study_name": "small", "results": str(folder), **SECTIONS, **sections}
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    return study(folder).run(last="search", display=QUIET)


def test_every_section_of_a_file_is_a_keyword():
    keywords = set(inspect.signature(nas.Study.__init__).parameters) - {"self", "name"}
    assert keywords | {"study_name"} == set(section_names())


def test_objects_mappings_and_a_file_are_one_configuration(tmp_path):
    as_objects = study(
        tmp_path,
        data=nas.dataset("digits", images_per_class=20),
        space=ConvNetSpace(widths=(8,), depths=(1, 2)),
        distill={"name": RandomSubset, "images_per_class": 2},
        train=TrainSettings(**TRAIN),
        search=SearchSettings(n_trials=2, sampler="random"),
    )
    from_file = nas.Study.from_config(written(tmp_path))
    assert as_objects.config == study(tmp_path).config == from_file.config
    (tmp_path / "again.yaml").write_text(as_objects.config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == as_objects.config
    assert nas.Study.from_config(written(tmp_path), ["seed=3"]).config.seed == 3


def test_what_was_begun_here_goes_on_from_a_file_and_the_other_way_round(searched, tmp_path):
    quiet = Quiet()
    config = searched.config.layout.config
    nas.Study.from_config(config).run(last="search", display=quiet)
    assert [line for line in quiet.said if "finished already" in line] == [
        "distill: finished already",
        "search: finished already",
    ]
    other = nas.Study.from_config(config, ["train.num_steps=4"])
    with pytest.raises(nas.StudyError, match="written by a different config.*num_steps"):
        other.run(last="search", display=quiet)
    with pytest.raises(nas.StudyError, match="written by a different config"):
        other.best  # noqa: B018


def test_what_is_there_is_shown_and_what_is_not_says_which_step_makes_it(searched):
    table = searched.trials
    assert table["trial"].tolist() == [0, 1]
    best = searched.best
    assert best.score == table["score"].max()
    assert best.architecture.id in set(table["architecture_id"])
    assert len(list(best.build().parameters())) > 0
    assert len(searched.proxy_dataset) == 20
    with pytest.raises(
        nas.StudyError, match=r"no section validate.*Study\(\.\.\., validate="
    ) as told:
        searched.verdict  # noqa: B018
    assert told.value.__cause__ is None
    with pytest.raises(nas.StudyError, match=r"report was not written; Study.run\(\)"):
        searched.report()
    with pytest.raises(nas.StudyError, match="not retrained, for the study has no section retrain"):
        best.model()
    new = study(searched.config.results / "elsewhere")
    with pytest.raises(nas.StudyError, match=r'not searched yet; Study.run\(last="search"\)'):
        new.best  # noqa: B018
    with pytest.raises(nas.StudyError, match=r'not distilled yet; Study.run\(last="distill"\)'):
        new.proxy_dataset  # noqa: B018


def test_a_study_shows_how_far_it_is(searched, tmp_path):
    shown = searched._repr_html_()
    assert "distilled, searched" in shown
    assert str(searched.best) in shown
    assert "nothing yet" in study(tmp_path)._repr_html_()
    assert len(shown) < 2000
    assert not re.search(r"(src|href|url)=?\(?", shown)


def test_texts_of_a_users_are_escaped():
    report = nas.rank_report(
        {"<i>": 1, "b": 2, "c": 3}, {"<i>": 1, "b": 3, "c": 2}, name="<script>"
    )
    assert "<script>" not in report._repr_html_()
    assert "&lt;script&gt;" in report._repr_html_()


def test_an_interrupt_leaves_what_goes_on(tmp_path):
    class Interrupting(Quiet):
        def say(self, message):
            if message.startswith("distill:"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path).run(last="search", display=Interrupting())
    resumed = study(tmp_path).run(last="search", display=QUIET)
    assert len(resumed.trials) == 2


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"trian": {}}, "Study: there is no 'trian'; did you mean 'train'"),
        ({"train": {**TRAIN, "num_step": 3}}, "train.num_step: unknown key; did you mean"),
        ({"train": SearchSettings()}, "train: expected TrainSettings or a mapping, got SearchSet"),
        ({"space": 3}, "a search space is a name, FILE.py:NAME, an object.*got int"),
        ({"space": TrainSettings}, "TrainSettings is not a search space"),
        ({"space": {"widths": [8]}}, "space.name: name a search space"),
        ({"distill": "hreding"}, "distill.name: unknown distiller 'hreding'; did you mean"),
        ({"data": {"name": "digits", "size": 3}}, "data.size: unknown key"),
        ({"search": {"n_trials": 0}}, "search.n_trials"),
    ],
)
def test_what_is_wrong_is_told_as_of_a_file(tmp_path, sections, sentence):
    with pytest.raises(nas.UserError, match=sentence) as told:
        study(tmp_path, **sections)
    frames = []
    traceback = told.tb
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert frames[-1] == "call"  # none of what lies behind the public function
    assert told.value._render_traceback_() == [f"{type(told.value).__name__}: {told.value}"]


def test_a_class_of_a_module_is_named_so_that_a_file_finds_it(tmp_path, monkeypatch):
    (tmp_path / "my_space.py").write_text(
        "from dataclasses import dataclass\n"
        "from nas_proxy.search_spaces.convnet import ConvNetSpace\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(ConvNetSpace):\n    extra: int = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_space

    made = study(tmp_path, space=my_space.Mine(widths=(8,), extra=4))
    section = made.config.resolved["space"]
    assert (section["name"], section["extra"]) == ("my_space:Mine", 4)
    (tmp_path / "again.yaml").write_text(made.config.to_yaml())
    assert load_config(tmp_path / "again.yaml").space == made.config.space


def test_a_step_that_does_not_exist_is_refused(tmp_path):
    study = nas.Study(
        "s",
        space="convnet",
        distill="random_subset",
        train={"num_steps": 2},
        results=tmp_path / "r",
    )
    with pytest.raises(
        nas.ConfigError, match="no step 'serch' to stop after; did you mean 'search'"
    ):
        study.run(last="serch")
    assert not (tmp_path / "r").exists()


def test_a_verdict_is_two_lines():
    noisy = [value + (-1) ** value * 3 for value in range(30)]
    other = [value % 7 for value in range(30)]
    report = nas.rank_report(noisy, range(30), controls={"parameters": other})
    first, second = str(Verdict(report)).splitlines()
    assert first.startswith("Spearman .9")
    assert second.startswith("It ranks better than parameters")
    assert asdict(report)["k"] == 5


def test_the_step_alone_makes_the_same_images_as_a_study(searched):
    alone = nas.distill(
        nas.dataset("digits", images_per_class=20),
        RandomSubset(),
        images_per_class=2,
        display=QUIET,
    )
    assert alone.id == searched.proxy_dataset.id
    with pytest.raises(nas.ConfigError, match="rank_aware learns from architectures.*Study"):
        nas.distill("digits", "rank_aware", display=QUIET)


@pytest.mark.exhaustive
def test_a_set_is_judged_alone(searched, tmp_path):
    report = nas.validate(
        searched.proxy_dataset,
        data=SECTIONS["data"],
        space=SECTIONS["space"],
        train=TRAIN,
        validate={
            "num_architectures": 5,
            "k": 2,
            "controls": ["num_params"],
            "reference": {"train": TRAIN},
        },
        results=tmp_path,
        tracking={"enabled": False},
        display=QUIET,
    )
    assert report.num_architectures == 5
    (folder,) = tmp_path.iterdir()
    assert recorded_inputs(folder / "validate") is not None


def test_judging_alone_searches_nothing_and_finds_what_a_study_finds(searched, tmp_path):
    judged = {
        "space": SECTIONS["space"],
        "data": SECTIONS["data"],
        "train": TRAIN,
        "score": {
            "signals": ["num_layers", "num_params"],
            "combine": "rank_mean",
            "num_reference": 4,
        },
        "validate": {
            "num_architectures": 5,
            "k": 2,
            "controls": ["num_params"],
            "reference": {"train": TRAIN},
        },
        "tracking": {"enabled": False},
    }
    quiet = Quiet()
    for _ in range(2):  # the second time all of it is there
        alone = nas.validate(
            searched.proxy_dataset, results=tmp_path / "alone", display=quiet, **judged
        )
    (folder,) = (tmp_path / "alone").iterdir()
    assert not (folder / "search").exists()
    assert "validate: finished already" in quiet.said
    assert not [line for line in quiet.said if re.match(r"(stage .*: |plan: )?search", line)]
    study = nas.Study(
        "whole", distill=SECTIONS["distill"], search={"n_trials": 1}, results=tmp_path, **judged
    )
    within = study.run(last="validate", display=QUIET).verdict.report
    assert alone.judged.figures == within.judged.figures
