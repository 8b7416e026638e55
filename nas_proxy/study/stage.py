"""What a stage is: it declares what it reads and writes, and one function runs any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from nas_proxy.errors import StudyError, UserError
from nas_proxy.plugin_sources import sources_named
from nas_proxy.study.clock import on_the_clock
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.ledger import note_discarded
from nas_proxy.study.plan import StagePlan
from nas_proxy.study.stage_folder import (
    CODE,
    StageFolder,
    differences,
    edited_code,
    recorded_inputs,
    released_on_user_error,
)

StageName = Literal["distill", "calibrate", "search", "validate", "retrain", "report"]


@dataclass(frozen=True)
class Condition:
    """In which studies something is read.

    Attributes:
        words: For people, such as "if the recipe is configured"; empty for every study.
        holds: Whether it is read.
    """

    words: str
    holds: Callable[[StudyConfig], bool]


ALWAYS = Condition("", lambda _: True)


@dataclass(frozen=True, kw_only=True)
class Section:
    """What a stage reads of one section of the configuration, and what of that may change.

    Attributes:
        name: Of the section, as the file spells it.
        keys: What is read of it; None: all. Of a section that is a word, the word in any case.
        free: Keys of these that change no result: where things are and how fast they go.
        continued: Keys after whose change the stage goes on with what it has; one within another
            is spelt `reference.value`.
        growing: A number; the stage goes on when it grows, and is done when it falls.
        when: Studies in which the section is read.
    """

    name: str
    keys: tuple[str, ...] | None = None
    free: tuple[str, ...] = ()
    continued: tuple[str, ...] = ()
    growing: str | None = None
    when: Condition = ALWAYS

    def decisive(self, resolved: Mapping[str, Any]) -> Any:
        """What the stage's result depends on, of a resolved configuration; None if it is absent."""
        section = resolved.get(self.name)
        if not isinstance(section, Mapping):
            return section
        set_aside = {*self.free, *self.continued, self.growing}
        keys = section if self.keys is None else self.keys
        return {
            key: _without(section.get(key), f"{key}.", set_aside)
            for key in keys
            if key not in set_aside
        }


def _without(value: Any, prefix: str, set_aside: Container[str | None]) -> Any:
    """A value without those of its own keys that are set aside with the prefix before them."""
    if not isinstance(value, Mapping):
        return value
    return {key: inner for key, inner in value.items() if f"{prefix}{key}" not in set_aside}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something that a stage reads beside the configuration.

    Attributes:
        name: In messages and in the stage's record.
        identity: What tells one from another, such as the hash of its content; a JSON value.
        stage: Whose result it is; None for what comes from outside.
        when: Studies in which it is read.
        continued: Whether the stage goes on with what it has when it changes.
    """

    name: str
    identity: Callable[[StudyContext], Any]
    stage: StageName | None = None
    when: Condition = ALWAYS
    continued: bool = False


class Stage(ABC):
    """One step of a study. It reads what earlier ones wrote and writes its own folder.

    A finished stage is skipped while all that it reads is the same; one that was given something
    else refuses, before anything is touched, unless it is to be repeated. All of that follows from
    the declaration here; nothing else says it again.

    Attributes:
        name: Of the stage, of its folder, and of its command.
        version: Of its code; raised by hand when its results change.
        reads: Sections of the configuration.
        sources: What it reads beside them: results of earlier stages, the images, tables.
        always_runs: Whether it is too cheap to be skipped, and keeps no record.
        not_wanted: What is said of a study that does not ask for the stage; empty: nothing.
    """

    name: ClassVar[StageName]
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[Section, ...]] = ()
    sources: ClassVar[tuple[Source, ...]] = ()
    always_runs: ClassVar[bool] = False
    not_wanted: ClassVar[str] = ""

    def is_wanted(self, config: StudyConfig) -> bool:
        """Whether a study asks for the stage."""
        return True

    def asked(self, study: StudyContext) -> Mapping[str, Any]:
        """What is asked of it beside the configuration; a change makes it go on, as `continued`."""
        return {}

    def writes(self, layout: StudyLayout) -> Iterable[Path]:
        """The files that its result consists of, as far as a study has them.

        Where one that was there is missing later, the stage runs again with what is left.
        """
        return ()

    @abstractmethod
    def run(self, study: StudyContext, folder: Path) -> None:
        """Do the work that is missing in `folder`, and say what came out.

        Raises:
            UserError: If something is wrong that the user can mend.
        """

    def plan(self, study: StudyContext) -> StagePlan:
        """What `run` would have to do, and what that buys; nothing is changed."""
        return StagePlan(stage=self.name)

    def check(self, study: StudyContext) -> None:  # noqa: B027 - most stages refuse nothing
        """Refuse to go on with a result, new or old, that the next stages must not use."""

    def sections(self, config: StudyConfig) -> dict[str, Any]:
        """What the result depends on of each section that is read in this study."""
        read = [section for section in self.reads if section.when.holds(config)]
        return {section.name: section.decisive(config.resolved) for section in read}

    def is_finished(self, study: StudyContext) -> bool:
        """Whether its result is there, so that it would be skipped; nothing is changed."""
        try:
            return self.folder(study).is_finished
        except UserError:  # what it reads is not there yet, or damaged: the run says which
            return False

    def code(self, config: StudyConfig) -> dict[str, dict[str, str]]:
        """Hashes of the user's own plug-ins that its sections name; nothing where there are none.

        What may change and be continued counts too: its results are in the same logs.
        """
        named = [
            {section.name: _read(section, config.resolved)}
            for section in self.reads
            if section.when.holds(config)
        ]
        found = sources_named(named)
        return {CODE: found} if found else {}

    def folder(self, study: StudyContext) -> StageFolder:
        """Its folder, with all that decides whether what lies there is its result."""
        config, resolved = study.config, study.config.resolved
        read = [section for section in self.reads if section.when.holds(config)]
        growing = [resolved[s.name][s.growing] for s in read if s.growing is not None]
        continued = {
            f"{section.name}.{key}": _at(resolved.get(section.name), key.split("."))
            for section in read
            for key in section.continued
        }
        given = [source for source in self.sources if source.when.holds(config)]
        return StageFolder(
            study.layout.stage(self.name),
            self.version,
            {
                **self.sections(config),
                **self.code(config),
                **{source.name: source.identity(study) for source in given if not source.continued},
            },
            goal=growing[0] if growing else None,
            terms={
                **continued,
                **{source.name: source.identity(study) for source in given if source.continued},
                **self.asked(study),
            },
        )


def _read(section: Section, resolved: Mapping[str, Any]) -> Any:
    """All that is read of a section, whether or not it may change."""
    value = resolved.get(section.name)
    if section.keys is None or not isinstance(value, Mapping):
        return value
    return {key: value.get(key) for key in section.keys}


def _at(section: Any, path: Sequence[str]) -> Any:
    """What stands in a section at a path; None where there is nothing."""
    for key in path:
        section = section.get(key) if isinstance(section, Mapping) else None
    return section


def plan_stages(
    stages: Iterable[Stage], study: StudyContext, repeated: Container[str] = ()
) -> list[StagePlan]:
    """What is left to do of those stages that the study asks for and that cost something.

    Args:
        stages: In their order.
        study: Whose; nothing of it is changed.
        repeated: Names of those whose results will be discarded.
    """
    plans = []
    for stage in stages:
        if stage.always_runs or not stage.is_wanted(study.config):
            continue
        if stage.name in repeated:
            plans.append(stage.plan(study).from_the_beginning())
        elif stage.is_finished(study):
            plans.append(StagePlan(stage=stage.name, is_finished=True))
        else:
            plans.append(stage.plan(study))
    return plans


def run_stage(stage: Stage, study: StudyContext, *, force: bool) -> None:
    """Run a stage unless its result is there already, and check the result.

    Args:
        stage: Which one.
        study: Whose.
        force: Discard what the stage has written, and repeat it.

    Raises:
        StudyError: If its folder was written by another configuration; nothing is changed.
        UserError: If something is wrong that the user can mend.
    """
    if not stage.is_wanted(study.config):
        if stage.not_wanted:
            study.display.say(f"{stage.name}: {stage.not_wanted}")
        return
    path = study.layout.stage(stage.name)
    if stage.always_runs:
        stage.run(study, path)
        return
    if force:
        note_discarded(study, stage.name)
        study.forget(path)
    with released_on_user_error(path):
        folder = stage.folder(study)
        if folder.open(force=force):
            with on_the_clock(study.layout.clock, stage.name):
                stage.run(study, path)
            folder.finish(*filter(Path.is_file, stage.writes(study.layout)))
        else:
            study.display.say(f"{stage.name}: finished already")
        stage.check(study)


def refuse_other_configuration(
    stages: Iterable[Stage], config: StudyConfig, layout: StudyLayout
) -> None:
    """Compare a configuration with the one that stages were run with, before anything is touched.

    Args:
        stages: Those that are not to be repeated.
        config: What is asked for now.
        layout: Of the study.

    Raises:
        StudyError: If a stage that was run read something else, or its record is damaged.
    """
    found: dict[str, None] = {}  # in order, what several stages read once
    for stage in stages:
        recorded = recorded_inputs(layout.stage(stage.name))
        if recorded is None:
            continue
        edited = edited_code(recorded, stage.code(config))
        if edited:
            raise StudyError(
                f"{edited} changed since {layout.stage(stage.name)} was written, so its results "
                "are those of other code; undo that, choose another study_name, or pass --force to "
                "the command of the stage that is to discard its work and repeat it (nas-proxy run "
                "--force repeats all of them)"
            )
        asked = stage.sections(config)
        names = {section.name for section in stage.reads} & {*recorded, *asked}
        before = {name: recorded[name] for name in names if name in recorded}
        now = {name: asked[name] for name in names if name in asked}
        found.update(dict.fromkeys(differences(before, now)))
    if found:
        changed = "; ".join(list(found)[:5])
        raise StudyError(
            f"{layout.folder} was written by a different config ({changed}); choose another "
            "study_name, or pass --force to the command of the stage that is to discard its work "
            "and repeat it (nas-proxy run --force repeats all of them)"
        )
