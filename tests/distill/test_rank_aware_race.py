"""What rank-aware selection knows of images, the sets it draws, and the race between them."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from nas_proxy.distill.rank_aware._images import Composition, Ratings, choose, rank_agreement, rate
from nas_proxy.distill.rank_aware._race import Plan, Race, make_plan
from nas_proxy.reproducibility import make_generator

# What is known of images


def test_the_agreement_of_an_image_is_that_of_scipy():
    losses = torch.randn(15, 2, 9, generator=make_generator(0)).round(decimals=1)  # with ties
    references = torch.randn(15, generator=make_generator(1)).double()
    found = rank_agreement(losses, references)
    for label in range(2):
        for image in range(9):
            expected = spearmanr(-losses[:, label, image], references).statistic
            assert float(found[label, image]) == pytest.approx(expected, abs=1e-9)
    assert rank_agreement(torch.ones(15, 2, 9), references).tolist() == [[0.0] * 9] * 2


def planted(noise, num_architectures=16):
    """Losses of 2 x 60 images, of which every third falls as the reference rises."""
    references = torch.arange(num_architectures).double()
    tells = torch.arange(60) % 3 == 0
    chance = torch.randn(num_architectures, 2, 60, generator=make_generator(4))
    falls = -(references - references.mean()) / references.std()
    return falls.view(-1, 1, 1) * tells + noise * chance.double(), references, tells


def test_what_two_halves_of_the_architectures_do_not_confirm_is_shrunk_away():
    losses, references, tells = planted(noise=1.0)
    found, raw = rate(losses, references).agreement, rank_agreement(losses, references)
    assert float(found[:, tells].mean() - found[:, ~tells].mean()) > 0.35
    only_chance = losses[:, :, ~tells]
    shrunk = rate(only_chance, references).agreement
    assert float(shrunk.std()) < 0.5 * float(raw[:, ~tells].std())


def test_what_the_halves_confirm_stays():
    losses, references, tells = planted(noise=0.05)
    found = rate(losses, references).agreement
    assert float(found[:, tells].min()) > 0.8
    assert float(found[:, ~tells].max()) < 0.7
    torch.testing.assert_close(
        rate(losses, references).difficulty, losses.mean(dim=0), atol=1e-9, rtol=0
    )


def test_sets_are_drawn_with_the_probabilities_that_are_promised():
    ratings = Ratings(torch.tensor([[0.1, 0.9, 0.5]]).double(), torch.zeros(1, 3).double())
    composition = Composition(name="x", agreement=2.0)
    counts = Counter(int(choose(ratings, composition, 1, seed)) for seed in range(1500))
    weights = [math.exp(2 * rank) for rank in (0.0, 1.0, 0.5)]
    for image, weight in enumerate(weights):
        assert counts[image] / 1500 == pytest.approx(weight / sum(weights), abs=0.04)


def test_large_weights_order_and_zero_weights_do_not():
    generator = make_generator(0)
    ratings = Ratings(*(torch.rand(3, 40, generator=generator).double() for _ in range(2)))
    members = torch.arange(120).view(3, 40)

    def drawn(seed=0, **weights):
        return choose(ratings, Composition(name="x", **weights), 5, seed).view(3, 5)

    assert drawn(agreement=1e6).tolist() == [
        members[label][ratings.agreement[label].argsort(descending=True)[:5]].tolist()
        for label in range(3)
    ]
    easiest = ratings.difficulty.argsort(dim=1)[:, :5] + members[:, :1]
    assert drawn(difficulty=-1e6).tolist() == easiest.tolist()
    places = ratings.difficulty.argsort(dim=1).argsort(dim=1).flatten()[drawn(extremity=-1e6)]
    assert all(set(chosen) >= {18, 19, 20, 21} for chosen in places.tolist())
    seen = Counter(int(i) for seed in range(200) for i in drawn(seed).flatten())
    assert min(seen[i] for i in range(120)) > 5
    assert all(len(set(drawn(seed).flatten().tolist())) == 15 for seed in range(20))


# The race


def test_folds_and_rounds_are_equally_good():
    references = torch.randn(24, generator=make_generator(0)).double()
    plan = make_plan(references, [i for i in range(24) if i != 7], 3, seed=5)
    assert (int(plan.folds[7]), int(plan.rounds[7])) == (-1, -1)
    cells = Counter(zip(plan.folds.tolist(), plan.rounds.tolist(), strict=True))
    assert all(3 <= cells[fold, number] <= 4 for fold in range(2) for number in range(3))
    ranks = references.argsort().argsort().double()
    means = [float(ranks[plan.folds == fold].mean()) for fold in range(2)]
    assert abs(means[0] - means[1]) < 6


def run_race(qualities, num_rounds=2, failures=(), noise=1.0):
    """A race of sets whose signals follow the references as closely as `qualities` say."""
    references = torch.arange(32).double()
    plan = make_plan(references, range(32), num_rounds, seed=1)
    luck = torch.randn(len(qualities), 32, generator=make_generator(2)).double()
    truth = torch.tensor(qualities).double().view(-1, 1) * references / 10 + noise * luck
    signals = torch.full((len(qualities), 32), torch.nan, dtype=torch.float64)
    race = Race([f"set {i}" for i in range(len(qualities))], references, plan, signals, seed=3)
    trained = []

    def enter(pairs):
        trained.extend(pairs)
        for each, architecture in pairs:
            failed = (each, architecture) in failures
            signals[each, architecture] = math.nan if failed else truth[each, architecture]

    return race, race.run(enter), Counter(each for each, _ in trained)


def test_the_best_set_wins_and_the_beaten_leave_early():
    race, winner, trained = run_race([0.0, 0.1, 3.0, 0.1, -1.0, 0.2])
    assert winner == 2
    assert trained[0] == trained[2] == 32  # the control runs to the end
    assert trained[4] == trained[1] == 16
    assert sum(trained.values()) <= race.plan.most_trainings(6)
    table = race.table()
    assert table["set 2"]["spearman"] == pytest.approx(
        np.mean(
            [
                spearmanr(
                    race.signals[2][race.plan.folds == fold],
                    race.references[race.plan.folds == fold],
                ).statistic
                for fold in range(2)
            ]
        ),
        abs=1e-4,
    )
    difference, low, high = table["set 2"]["minus_random"]
    assert 0 < low < difference < high
    assert table["set 4"]["num_architectures"] == 16


def test_the_control_wins_where_nothing_is_better():
    assert run_race([5.0, 5.0, 1.0], noise=0.0)[1] == 0  # two perfect ones
    assert run_race([0.0, 0.0], noise=0.0)[1] == 0  # nothing ranks
    assert run_race([3.0, 0.1, 0.2, 0.0])[1] == 0


def test_a_set_on_which_trainings_fail_leaves_and_architectures_that_always_fail_do_not_count():
    race, winner, trained = run_race(
        [0.0, 4.0, 3.0], failures={(0, 5), (1, 5), (2, 5), *((1, a) for a in range(10, 20))}
    )
    assert winner == 2
    assert trained[1] == 16
    assert 5 not in race.comparable()
    assert len(race.comparable()) == 31


def test_a_plan_counts_its_trainings():
    plan = Plan(torch.zeros(10), torch.tensor([0] * 4 + [1] * 3 + [2] * 3), 3)
    # Six sets; then three and the control; then two and the control.
    assert plan.most_trainings(6) == 6 * 4 + 4 * 3 + 3 * 3
