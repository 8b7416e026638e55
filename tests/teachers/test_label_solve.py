"""Label solve against brute-force least squares, and the projection against its definition."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from nas_proxy.errors import DivergedError
from nas_proxy.reproducibility import make_generator
from nas_proxy.teachers.label_solve import (
    LabelEquations,
    centred_labels,
    project_to_simplex,
    ridge_predictor,
    solve_labels,
)

CLASSES = 3


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=make_generator(seed), dtype=torch.float64)


def one_hot(num, seed=0):
    labels = torch.randint(CLASSES, (num,), generator=make_generator(seed))
    return torch.nn.functional.one_hot(labels, CLASSES).double()


def ridge_by_rows(design, target, strength):
    """Ridge regression as ordinary least squares with one more row for each unknown."""
    size = design.shape[1]
    rows = np.vstack([design, np.sqrt(strength) * np.eye(size)])
    return np.linalg.lstsq(rows, np.vstack([target, np.zeros((size, target.shape[1]))]))[0]


def predictions(support, labels, embeddings, regularisation):
    """Kernel ridge regression in its primal form: weights of the embedding's dimensions."""
    support, labels, embeddings = (each.numpy() for each in (support, labels, embeddings))
    strength = regularisation * (support**2).sum(axis=1).mean()
    return embeddings @ ridge_by_rows(support, labels, strength)


def design_of(support, embeddings, regularisation):
    """What each single label of one predicts, column by column."""
    labels = torch.eye(len(support), dtype=torch.float64)
    return predictions(support, labels, embeddings, regularisation)


@pytest.mark.parametrize("num_images", [4, 12])
def test_the_predictor_is_ridge_regression_on_the_embedding(num_images):
    support, embeddings, labels = normal(num_images, 7), normal(9, 7, seed=1), one_hot(num_images)
    predicted = embeddings @ ridge_predictor(support, 1e-2) @ labels
    expected = predictions(support, labels, embeddings, 1e-2)
    np.testing.assert_allclose(predicted.numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("num_images", "num_real"), [(4, 40), (12, 40), (9, 5)])
def test_solved_labels_are_brute_force_least_squares(num_images, num_real):
    support, embeddings, target = (
        normal(num_images, 7),
        normal(num_real, 7, seed=1),
        one_hot(num_real),
    )
    solved = solve_labels(support, [(embeddings, target)], regularisation=1e-2)
    design = design_of(support, embeddings, 1e-2)
    strength = 1e-2 * (design**2).sum(axis=0).mean()
    expected = ridge_by_rows(design, target.numpy() - 1 / CLASSES, strength) + 1 / CLASSES
    np.testing.assert_allclose(solved.numpy(), expected, atol=1e-6)


def test_each_solved_label_sums_to_one():
    support, embeddings, target = normal(12, 7), normal(40, 7, seed=1), one_hot(40)
    sums = solve_labels(support, [(embeddings, target)]).sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(12))


def test_batches_of_any_length_give_the_same_labels():
    support, embeddings, target = normal(4, 7), normal(40, 7, seed=1), one_hot(40)
    whole = solve_labels(support, [(embeddings, target)])
    parts = zip(embeddings.split([1, 30, 9]), target.split([1, 30, 9]), strict=True)
    torch.testing.assert_close(solve_labels(support, parts), whole)


def test_images_that_are_their_own_support_keep_their_labels():
    support, labels = normal(5, 9), one_hot(5)
    solved = solve_labels(support, [(support, labels)], regularisation=1e-12)
    torch.testing.assert_close(solved, labels.float(), atol=1e-5, rtol=0)


def test_the_error_is_least_at_the_solved_labels():
    support, embeddings, target = normal(6, 7), normal(40, 7, seed=1), one_hot(40)
    predictor = ridge_predictor(support, 1e-6)
    equations = LabelEquations(6, CLASSES, torch.device("cpu"))
    equations.add(embeddings @ predictor, target)
    labels = equations.solve(1e-12).requires_grad_()

    def error(labels):
        residual = embeddings @ predictor @ (labels - 1 / CLASSES) - (target - 1 / CLASSES)
        return 0.5 * residual.square().sum(dim=1).mean()

    loss = error(labels)
    (gradient,) = torch.autograd.grad(loss, labels)
    assert gradient.abs().max() < 1e-9
    assert equations.loss(labels.detach()) == pytest.approx(float(loss.detach()))
    for seed in range(5):
        other = labels.detach() + 0.1 * normal(6, CLASSES, seed=seed)
        assert error(other) > loss
        assert equations.loss(other) == pytest.approx(float(error(other)))


def test_two_networks_share_their_labels():
    """The labels minimise the sum of both errors, not each."""
    target = one_hot(40)
    equations = LabelEquations(6, CLASSES, torch.device("cpu"))
    designs = []
    for seed in (1, 2):
        support, embeddings = normal(6, 7, seed=seed), normal(40, 7, seed=10 + seed)
        designs.append(embeddings @ ridge_predictor(support, 1e-6))
        equations.add(designs[-1], target)
    expected = np.linalg.lstsq(
        torch.cat(designs).numpy(), np.vstack([target.numpy() - 1 / CLASSES] * 2)
    )[0]
    np.testing.assert_allclose(equations.solve(1e-14).numpy() - 1 / CLASSES, expected, atol=1e-8)


def test_equations_survive_a_checkpoint():
    equations = LabelEquations(4, CLASSES, torch.device("cpu"))
    equations.add(normal(9, 4), one_hot(9))
    restored = LabelEquations.restored(equations.state(), torch.device("cpu"))
    for each in (equations, restored):
        each.add(normal(5, 4, seed=1), one_hot(5, seed=1))
    assert torch.equal(equations.solve(1e-6), restored.solve(1e-6))
    assert equations.loss(one_hot(4)) == restored.loss(one_hot(4))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_embeddings_that_say_nothing_are_refused(value):
    support = torch.full((4, 7), value)
    with pytest.raises(DivergedError, match="not finite, or all of them are zero"):
        solve_labels(support, [(normal(9, 7), one_hot(9))])


def test_centred_labels_are_probabilities_less_the_uniform_ones():
    expected = torch.tensor([[-1, 2, -1], [2, -1, -1]]).double() / 3
    torch.testing.assert_close(centred_labels(torch.tensor([1, 0]), 3), expected)
    soft = torch.tensor([[0.5, 0.25, 0.25]])
    torch.testing.assert_close(centred_labels(soft, 3), soft.double() - 1 / 3)


def nearest_probabilities(point):
    """By a solver for constrained problems in general."""
    found = minimize(
        lambda x: ((x - point) ** 2).sum(),
        np.full(len(point), 1 / len(point)),
        jac=lambda x: 2 * (x - point),
        bounds=[(0, 1)] * len(point),
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like},
        tol=1e-12,
    )
    return found.x


def test_the_projection_is_the_nearest_point_of_the_simplex():
    points = 2 * normal(6, 5)
    expected = np.stack([nearest_probabilities(point) for point in points.numpy()])
    np.testing.assert_allclose(project_to_simplex(points).numpy(), expected, atol=1e-5)


def test_the_projection_satisfies_its_optimality_conditions():
    """One threshold for each row: what is kept is the value less it, what is cut lies below it."""
    labels = 3 * normal(50, 8)
    projected = project_to_simplex(labels)
    torch.testing.assert_close(projected.sum(dim=1), torch.ones(50).double())
    assert (projected >= 0).all()
    for row, nearest in zip(labels, projected, strict=True):
        kept = nearest > 0
        thresholds = row[kept] - nearest[kept]
        assert thresholds.max() - thresholds.min() < 1e-12
        assert (row[~kept] <= thresholds[0] + 1e-12).all()


def test_probabilities_are_their_own_projection():
    labels = normal(20, 6).softmax(dim=1)
    torch.testing.assert_close(project_to_simplex(labels), labels)
    corners = one_hot(4)
    assert torch.equal(project_to_simplex(corners), corners)
