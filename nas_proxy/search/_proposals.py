"""Optuna's trials, each proposed with a seed of its number: a kill changes no proposal."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial

from nas_proxy.reproducibility import derive_seed
from nas_proxy.search._samplers import make_sampler
from nas_proxy.search.settings import SearchSettings
from nas_proxy.search.thinned import Thinner


class Proposer:
    """Asks Optuna for trials, and takes up those that an earlier process has asked for.

    What is proposed follows from the trial's number and from what is stored, not from draws before
    it. So a search that was killed goes on with the proposals that it would have made.

    Args:
        study: Optuna's.
        settings: The sampler.
        seed: Of the search.
        num_workers: How many candidates are evaluated at the same time.
        driver: Who asks, where several ask one study and must not propose alike.
    """

    def __init__(
        self,
        study: optuna.Study,
        settings: SearchSettings,
        seed: int,
        num_workers: int,
        driver: str = "",
    ) -> None:
        self._study = study
        self._settings = settings
        self._seed = seed
        self._num_workers = num_workers
        self._driver = [driver] if driver else []
        self._thinner = Thinner()
        self._next_number = len(study.get_trials(deepcopy=False))
        self._half_asked: FrozenTrial | None = None

    def propose(self, *, by_chance: bool) -> Trial:
        """The next trial, whose parameters are drawn while they are asked for.

        Args:
            by_chance: Whether a uniform draw proposes instead of the sampler.
        """
        half_asked, self._half_asked = self._half_asked, None
        number = self._next_number if half_asked is None else half_asked.number
        if by_chance:
            self._study.sampler = RandomSampler(self._seed_of("chance", number))
        else:
            seed = self._seed_of("sampler", number)
            self._study.sampler = make_sampler(
                self._settings, seed, self._num_workers, self._thinner
            )
        if half_asked is not None:
            return _HalfAsked(self._study, half_asked._trial_id)
        trial = self._study.ask()
        self._next_number = max(self._next_number, trial.number + 1)
        return trial

    def finish_asking(self, trial: FrozenTrial) -> None:
        """Propose this one next: a kill came while its parameters were drawn."""
        self._half_asked = trial

    def taken_up(self, trial: FrozenTrial) -> Trial:
        """One whose parameters are all drawn, to go on with it as it is."""
        # A sampler would propose anew, and some note that in the study.
        self._study.sampler = RandomSampler(seed=0)
        return Trial(self._study, trial._trial_id)

    def _seed_of(self, purpose: str, number: int) -> int:
        return derive_seed(purpose, self._seed, number, *self._driver) % 2**32


class _HalfAsked(Trial):
    """A trial of which some parameters are stored: these are drawn again, for those behind them."""

    def __init__(self, study: optuna.Study, trial_id: int) -> None:
        super().__init__(study, trial_id)
        self._drawn_before = {*self._cached_frozen_trial.distributions}

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._drawn_before:
            self._drawn_before.remove(name)
            is_drawn = not (distribution.single() or self._is_relative_param(name, distribution))
            if is_drawn:
                frozen = self._get_latest_trial()
                study = optuna.pruners._filter_study(self.study, frozen)
                self.study.sampler.sample_independent(study, frozen, name, distribution)
        return super()._suggest(name, distribution)
