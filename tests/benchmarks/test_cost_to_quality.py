"""The strategies of benchmarks/cost_to_quality.py pay for what they look up, and no more."""

import itertools
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas_proxy.calibrate.recipes import Recipe, RecipeStage
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

ROOT = Path(__file__).parents[2]
SHORT_COST = 4.0
SPACE = ConvNetSpace(widths=(4, 8), depths=(1, 2), norms=("none", "batch"))


@pytest.fixture(scope="module")
def benchmarks():
    """The script, which holds everything by name."""
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        import cost_to_quality

        yield cost_to_quality
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in set(sys.modules) - before:
            if (ROOT / "benchmarks" / f"{name}.py").is_file():
                del sys.modules[name]


def every_architecture() -> list[Architecture]:
    keys = ("width", "depth", "norm", "activation", "pooling")
    options = (SPACE.widths, SPACE.depths, SPACE.norms, SPACE.activations, SPACE.pooling)
    return [
        Architecture("convnet", dict(zip(keys, values, strict=True)))
        for values in itertools.product(*options)
    ]


@pytest.fixture
def population(benchmarks):
    """Half of a small space, two scores, and a short training that knows the order."""
    from quality_populations import Candidate, Population

    generator = np.random.default_rng(0)
    chosen = generator.permutation(np.array(every_architecture(), dtype=object))[:36]
    final = dict(zip(chosen, generator.uniform(50, 90, len(chosen)), strict=True))
    candidates = {
        a: Candidate(
            a,
            (final[a] - 20 + generator.normal(), final[a] - 5, final[a]),
            float(generator.uniform(5, 15)),
            final[a] + generator.normal(),
        )
        for a in chosen
    }
    signals = {"flops": 1.0, "naswot": 2.0}
    parts = {
        f"score_{signal}": {
            a: Evaluation(
                a,
                Fidelity("", 0, 0, 8),
                0,
                Status.COMPLETE,
                signals={signal: final[a] + 3 * cost * generator.normal()},
                signal_seconds={signal: cost},
                core_seconds=cost,
            )
            for a in chosen
        }
        for signal, cost in signals.items()
    }
    parts["short"] = {
        a: Evaluation(
            a,
            Fidelity("", 4, 8, 8),
            0,
            Status.COMPLETE,
            signals={"val_accuracy": final[a] / 100},
            core_seconds=SHORT_COST,
        )
        for a in chosen
    }
    recipes = [
        Recipe(name=f"{s}_alone", train_on="nothing", score=ScoreSettings(signals=(s,)))
        for s in signals
    ]
    both = ScoreSettings(signals=tuple(signals), combine="rank_mean")
    recipes.append(Recipe(name="both", train_on="nothing", score=both))
    stages = (
        RecipeStage(train_on="nothing", score=ScoreSettings(signals=("flops",))),
        RecipeStage(
            train_on="full_data", score=ScoreSettings(signals=("val_accuracy",)), share=0.25
        ),
    )
    recipes.append(Recipe(name="short_self_labelled", stages=stages))
    return Population(
        "made up", SPACE, candidates, (1, 2, 6), tuple(recipes), parts, distilling=100.0
    )


def test_random_picks_pay_for_every_training_once(benchmarks, population):
    found = benchmarks.plain_strategies(1000)["random picks"](population, 3)
    assert len(found.costs) == len(population.candidates)
    everything = sum(c.cost for c in population.candidates.values())
    assert found.costs[-1] == pytest.approx(everything)
    best = max(population.candidates.values(), key=lambda c: c.reports[-1])
    assert found.tests[-1] == best.test  # by validation accuracy, not by test accuracy


@pytest.mark.parametrize("name", ["random + median", "TPE + Hyperband", "ASHA"])
def test_a_pruned_training_is_paid_up_to_its_rung(name, benchmarks, population, monkeypatch):
    studies = []
    create = optuna.create_study

    def remembered(**options):
        studies.append(create(**options))
        return studies[-1]

    monkeypatch.setattr(optuna, "create_study", remembered)
    found = benchmarks.plain_strategies(30)[name](population, 1)
    (study,) = [s for s in studies if s.study_name == "plain-1"]
    paid, proposed = 0.0, []
    for trial in study.trials:
        architecture = Architecture("convnet", trial.params)
        proposed.append(architecture)
        paid += population.candidates[architecture].cost * trial.last_step / 6
    assert len(set(proposed)) == len(proposed) == 30
    assert sum(found.spent.values()) == pytest.approx(paid)
    states = {trial.state for trial in study.trials}
    assert states == {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}
    assert found.tests[-1] == study.best_trial.user_attrs["test"]


@pytest.mark.parametrize("name", ["random picks", "TPE + median"])
def test_a_seed_gives_the_same_again_and_another_one_something_else(name, benchmarks, population):
    strategy = benchmarks.plain_strategies(12)[name]
    assert strategy(population, 1) == strategy(population, 1) != strategy(population, 2)


def test_ours_pays_for_labels_recipes_candidates_and_finalists(benchmarks, population):
    ours = benchmarks.Ours(
        recipes=lambda r: not r.stages, num_labels=20, threshold=-0.9, num_finalists=3
    )
    found = ours(population, 5)
    order = np.random.default_rng(5).permutation(len(population.candidates))
    sample = [list(population.candidates)[i] for i in order[:20]]
    labels = found.spent["calibration: full trainings"]
    sums = {n: sum(population.candidates[a].cost for a in sample[:n]) for n in (12, 20)}
    num_used = next(n for n, paid in sums.items() if paid == pytest.approx(labels))
    # Two scores are read by three recipes, and each is paid for once.
    assert found.spent["calibration: recipes"] <= num_used * (1.0 + 2.0)
    assert "distilling" not in found.spent  # no recipe trains on the distilled set
    recipe = next(r for r in population.recipes if r.name == found.chosen)
    cost = sum({"flops": 1.0, "naswot": 2.0}[s] for s in recipe.score.signals)
    assert found.spent["search"] == pytest.approx(cost * len(population.candidates))
    assert len(found.costs) == 3
    assert found.costs[-1] == pytest.approx(sum(found.spent.values()))
    known = found.without("calibration: full trainings")
    assert known.costs == pytest.approx([c - labels for c in found.costs])
    proved = found.and_(proof=7.0)
    assert proved.costs == pytest.approx([c + 7 for c in found.costs])
    assert proved.tests == found.tests


def test_a_search_by_score_looks_at_so_many(benchmarks, population):
    ours = benchmarks.Ours(
        recipes=lambda r: r.name == "flops_alone", num_labels=20, threshold=-0.9, num_trials=9
    )
    assert ours(population, 0).spent["search"] == pytest.approx(9.0)


@pytest.mark.parametrize(("num_trials", "num_scored"), [(9, 9), (None, 36)])
def test_without_labels_the_sample_is_paid_for_too(num_trials, num_scored, benchmarks, population):
    ours = benchmarks.Ours(
        recipes=lambda r: r.name == "both",
        calibrates=False,
        num_trials=num_trials,
        num_finalists=2,
    )
    found = ours(population, 0)
    assert found.spent["reference sample"] == pytest.approx(32 * (1.0 + 2.0))
    assert found.spent["search"] == pytest.approx(num_scored * (1.0 + 2.0))
    assert set(found.spent) == {"reference sample", "search", "finalists"}
    assert len(found.costs) == 2
    assert found.costs[-1] == pytest.approx(sum(found.spent.values()))


def test_what_a_cascade_cuts_is_not_trained(benchmarks, population):
    ours = benchmarks.Ours(
        recipes=lambda r: bool(r.stages), calibrates=False, num_finalists=len(population.candidates)
    )
    found = ours(population, 0)
    assert found.spent["reference sample"] == pytest.approx(32 * (1.0 + SHORT_COST))
    trained = (found.spent["search"] - 36 * 1.0) / SHORT_COST
    assert trained == pytest.approx(round(trained))
    assert 36 * 0.1 < trained < 36 * 0.4
    # What was trained comes first, and the training's order is that of the accuracies: the pick
    # changes only where something is better that the first score had cut.
    assert np.diff(found.tests[: round(trained)]).tolist() == [0.0] * (round(trained) - 1)


def test_a_seed_draws_its_own_architectures(benchmarks, population):
    first, again, other = (population.drawn(12, seed) for seed in (0, 0, 1))
    assert first.candidates == again.candidates != other.candidates
    assert len(first.candidates) == 12
    assert first.candidates.items() <= population.candidates.items()
    assert first.best == max(c.test for c in first.candidates.values())
    assert population.drawn(36, 5).identity == population.identity
    strategy = benchmarks.plain_strategies(1000)["random picks"]
    assert len(strategy(first, 0).costs) == 12


def test_a_curve_is_what_the_trajectories_say(benchmarks):
    found = [
        benchmarks.Trajectory([1.0, 10.0], [80.0, 90.0]),
        benchmarks.Trajectory([2.0, 5.0], [82.0, 89.5]),
    ]
    row = benchmarks.row_of("some", found, best=90.0)
    # From 2 on both have a pick: means 9, 5.25 (from 5 on), 0.25 (from 10 on).
    assert row["core_seconds_to_within"] == {"0.3": 10.0, "1.0": 10.0}
    first, last = row["curve"][0], row["curve"][-1]
    assert (first["core_seconds"], first["regret"]) == (2.0, 9.0)
    assert (last["core_seconds"], last["regret"]) == (10.0, 0.25)
    # Student's interval of the mean of 0 and 0.5: 12.706 standard errors of 0.25.
    assert last["high"] == pytest.approx(0.25 + 12.706 * 0.25, abs=1e-3)
    assert last["low"] == 0.0


def test_the_rival_is_compared_at_the_same_cost_seed_by_seed(benchmarks, population):
    found = [benchmarks.Trajectory([10.0], [88.0]), benchmarks.Trajectory([20.0], [89.0])]
    rivals = [
        benchmarks.Trajectory([1.0, 15.0], [80.0, 85.0]),
        benchmarks.Trajectory([1.0, 30.0], [80.0, 90.0]),
    ]
    table = benchmarks.table_of(population, {"some": found, benchmarks.RIVAL: rivals})
    some, rival = table["strategies"]
    # At 20 the rivals have 85 and 80: differences of -3 and -9.
    assert some["minus_the_rival"] == {
        "core_seconds": 20.0,
        "regret": -6.0,
        "low": pytest.approx(-6 - 12.706 * 3, abs=1e-2),
        "high": pytest.approx(-6 + 12.706 * 3, abs=1e-2),
    }
    assert "minus_the_rival" not in rival


def test_a_regret_that_rises_again_is_not_within(benchmarks):
    found = [benchmarks.Trajectory([1.0, 2.0, 3.0], [89.9, 80.0, 89.5])]
    assert benchmarks.row_of("some", found, best=90.0)["core_seconds_to_within"] == {
        "0.3": None,
        "1.0": 3.0,
    }


def test_what_was_simulated_is_not_simulated_again(benchmarks, population, tmp_path):
    strategy = benchmarks.plain_strategies(6)["random picks"]
    file = tmp_path / "trajectories.jsonl"
    first = benchmarks.KeptTrajectories(file).of(strategy, population, 0)
    with file.open("a") as kept:
        kept.write('["torn')  # a kill
    assert benchmarks.KeptTrajectories(file).of(strategy, population, 0) == first
    again = benchmarks.KeptTrajectories(file)
    again.of(strategy, population, 0)
    again.of(strategy, population, 1)
    again.of(benchmarks.plain_strategies(5)["random picks"], population, 0)
    assert len(file.read_text().splitlines()) == 3
