"""The architectures that a study sets aside: are there enough, before anything is done?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from nas_proxy.errors import DataError, StudyError
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.evaluate.table import TruthTable, read_references
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.study.calibration_sample import draw_sample
from nas_proxy.study.config import StudyConfig
from nas_proxy.types import Architecture
from nas_proxy.validate.settings import ValidateSettings

_POOL_FACTOR = 3  # architectures scored for each stratified one that is chosen


def check_samples(config: StudyConfig) -> None:
    """Find out before hours are spent whether tables can be used and samples can be drawn.

    The calibration's and the validation's have no network in common, so one table must hold both.

    Raises:
        DataError: If a table is missing or unreadable, or there are too few architectures; the
            message names the option.
    """
    learned_from: list[Architecture] = []
    if config.calibration is not None:
        with _named("calibrate.num_architectures"):
            _, learned_from = draw_sample(config, config.calibration)
    if config.validation is None:
        return
    table, reference = None, config.validation.reference
    if reference.table is not None:
        columns = (reference.architecture, reference.value, reference.second_value)
        table, _ = read_references(Path(reference.table), config.space, *columns)
    with _named(f"validate.num_architectures and {_POOL_FACTOR} for each of num_stratified"):
        draw_validation(config, config.validation, table, excluded=learned_from)


def draw_validation(
    config: StudyConfig,
    settings: ValidateSettings,
    table: TruthTable | None,
    *,
    excluded: Collection[Architecture],
) -> tuple[list[Architecture], list[Architecture]]:
    """The validation's uniform sample, and the pool from which the stratified one is chosen.

    Args:
        config: The study.
        settings: Its section `validate`.
        table: Of the references; None where they are trained.
        excluded: What had a part in the ranking; see `draw_architectures`.

    Raises:
        StudyError: If there are not so many.
    """
    num_uniform, num_pool = settings.num_architectures, settings.num_stratified * _POOL_FACTOR
    drawn = draw_architectures(
        config.space,
        num_uniform + num_pool,
        make_generator(derive_seed("validation", config.seed)),
        among=None if table is None else list(table.values),
        excluded=excluded,
    )
    return drawn[:num_uniform], drawn[num_uniform:]


@contextmanager
def _named(options: str) -> Iterator[None]:
    """Say which options ask for what could not be drawn."""
    try:
        yield
    except StudyError as error:
        raise DataError(f"{options}: {error}") from error
