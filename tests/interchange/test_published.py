"""Reading what others published: every form as its authors write it, and what must be refused."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nas_proxy.data.augment import DSA_STRATEGY, Augmentation
from nas_proxy.data.transforms import normalise, stretch
from nas_proxy.data.whitening import Whitening
from nas_proxy.errors import ProxyFileError
from nas_proxy.testing._common import tiny_dataset
from tests.interchange.helpers import (
    CLASSES,
    FIELD_MEAN,
    IN_ORDER,
    PUBLISHED_ZCA,
    SPEC,
    column,
    load,
    refused,
    save_dc,
    save_mtt,
    shown_pixels,
)

# DC, DSA, DM


def test_a_dc_file_gives_the_same_pixels_class_by_class(folder, pixels, published):
    path = save_dc(folder / "res_DM_CIFAR10_ConvNet_2ipc.pt", (published, CLASSES))
    imported = load(path)
    torch.testing.assert_close(shown_pixels(imported), pixels[IN_ORDER], rtol=0, atol=1e-6)
    assert imported.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert imported.labels.dtype == torch.int64
    assert (imported.method, imported.images_per_class) == ("imported:dc", 2)
    assert imported.spec == replace(SPEC, source_hash="")
    assert (imported.zca, imported.decode_factor, dict(imported.costs)) == (None, 1, {})
    assert imported.parameters["published_mean"] == FIELD_MEAN
    assert any("--mean" in sentence for sentence in imported.parameters["assumed"])


def test_other_statistics_can_be_said(folder, pixels):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    path = save_dc(folder / "res.pt", ((pixels - column(mean)) / column(std), CLASSES))
    imported = load(path, mean=mean, std=std, normalised=True)
    torch.testing.assert_close(shown_pixels(imported), pixels[IN_ORDER], rtol=0, atol=1e-6)


def test_one_of_several_sets_is_taken_and_said(folder, published):
    path = save_dc(folder / "res.pt", (published, CLASSES), (published * 0.5, CLASSES))
    first, second = load(path), load(path, index=1)
    torch.testing.assert_close(load(path, index=0).images, first.images)
    assert not torch.equal(first.images, second.images)
    assert (first.parameters["set"], second.parameters["set"]) == (0, 1)
    assert any("set 0 of 2" in sentence for sentence in first.parameters["assumed"])
    refused(path, "holds 2 set(s)", "below 2", index=2)


def test_the_name_of_the_method_says_how_it_is_trained_on(folder, published):
    dc = load(save_dc(folder / "res_DC_CIFAR10_ConvNet_2ipc.pt", (published, CLASSES)))
    dsa = load(save_dc(folder / "res_DSA_CIFAR10_ConvNet_2ipc.pt", (published, CLASSES)))
    assert (dc.learning_rate_rule.num_epochs, dc.augmentation) == (300, Augmentation())
    assert dsa.learning_rate_rule.num_epochs == 1000
    assert dsa.augmentation == Augmentation(dsa=DSA_STRATEGY)


# What is refused as a whole


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (torch.nn.Linear(2, 2).state_dict(), "mapping with the keys 'weight', 'bias'"),
        ([torch.zeros(1)] * 3, "a list"),
        ("text", "a str"),
        ({"data": []}, "no set"),
        ({"data": [[torch.zeros(1)]]}, "not a pair"),
        ({"data": [[torch.zeros(6, 3, 8, 8).to_sparse(), CLASSES]]}, "sparse"),
        ({"data": [[torch.zeros(6, 3, 8, 8, device="meta"), CLASSES]]}, "meta"),
        ({"data": [["images", CLASSES]]}, "holds a str where a tensor"),
        (OrderedDict(), "(none)"),
    ],
)
def test_what_is_no_published_form_is_refused(folder, content, word):
    torch.save(content, folder / "thing.pt")
    refused(folder / "thing.pt", word)


def test_other_kinds_of_files_are_refused(folder):
    refused(folder / "missing.pt", "does not exist")
    refused(folder, "none of what is published")
    (folder / "kip.npz").write_bytes(b"PK")
    refused(folder / "kip.npz", ".npz", "KIP")
    (folder / "notes.txt").write_text("")
    refused(folder / "notes.txt", "no kind that can be read")


# MTT, TESLA, DATM


def test_an_mtt_folder_is_read_with_its_learning_rate(folder, pixels, published):
    save_mtt(folder, published.requires_grad_(), CLASSES, rate=0.0213)
    for path in (folder, folder / "images_best.pt"):
        imported = load(path, normalised=True)
        torch.testing.assert_close(shown_pixels(imported), pixels[IN_ORDER], rtol=0, atol=1e-6)
        assert not imported.images.requires_grad
        assert imported.learning_rate_rule.learning_rate == pytest.approx(0.0213)
        assert imported.learning_rate_rule.momentum == 0.9
    assert load(folder, normalised=True, learning_rate=0.5).learning_rate_rule.learning_rate == 0.5


def test_the_layout_of_rankings_is_read(folder, published):
    torch.save(published, folder / "images.pt")
    torch.save(CLASSES, folder / "labels.pt")
    torch.save(0.25, folder / "lr.pt")
    imported = load(folder, normalised=True)
    assert imported.learning_rate_rule.learning_rate == 0.25
    assert imported.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_missing_learning_rate_is_said(folder, published):
    save_mtt(folder, published, CLASSES)
    imported = load(folder, normalised=True)
    assert any("learning rate 0.01" in sentence for sentence in imported.parameters["assumed"])
    torch.save(torch.tensor(float("nan")), folder / "lr_best.pt")
    refused(folder, "learning rate", "nan", normalised=True)
    torch.save(torch.zeros(3), folder / "lr_best.pt")
    refused(folder, "lr_best.pt", "one number", normalised=True)


def test_normalised_and_whitened_are_not_guessed(folder, published):
    save_mtt(folder, published, CLASSES)
    refused(folder, "cannot be told apart", "--zca", "range from")
    assert load(folder, normalised=True).zca is None
    assert load(folder, zca=0.1).zca is not None


def test_pictures_of_whitened_images_beside_it_tell(folder, published):
    save_mtt(folder, published, CLASSES)
    torch.save(published, folder / "images_zca_5000.pt")
    imported = load(folder)
    assert imported.zca is not None
    assert any("whitened with 0.1" in sentence for sentence in imported.parameters["assumed"])
    refused(folder / "images_zca_5000.pt", "images_5000.pt")


@pytest.mark.parametrize(
    ("name", "whitened"),
    [("CIFAR10_ZCA", True), ("cifar10_zca_50", True), ("CIFAR10_NO_ZCA", False), ("nozca", False)],
)
def test_names_tell(folder, published, name, whitened):
    inner = folder / name / "IPC10"
    inner.mkdir(parents=True)
    save_mtt(inner, published, CLASSES)
    if whitened:
        assert load(inner).zca is not None
    else:
        refused(inner, "cannot be told apart")
    assert load(inner, normalised=True).zca is None


def test_the_field_s_whitening_is_ours_in_another_unit(folder):
    """Real images that the field's code whitened are what ours makes of them.

    Exactly so if the channels have equal deviations.
    """
    spec = replace(SPEC, mean=(0.4, 0.5, 0.45), std=(0.23, 0.23, 0.23))
    dataset = replace(tiny_dataset(images_per_class=40), spec=spec)
    unit = dataset.images.double().flatten(1) / 255
    centred = unit - unit.mean(dim=0)
    covariance = centred.T @ centred / (len(unit) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    theirs = centred @ vectors @ torch.diag((values + PUBLISHED_ZCA).rsqrt()) @ vectors.T
    save_mtt(folder, theirs.float().view(-1, 3, 8, 8), dataset.labels)
    imported = load(folder, spec=spec, zca=PUBLISHED_ZCA)
    ours = Whitening.fit(dataset, imported.zca).apply(normalise(dataset.images, spec))
    ours = ours[dataset.labels.argsort(stable=True)]
    difference = (imported.images - ours).norm() / ours.norm()
    assert float(difference) < 0.005  # their covariance is divided by n - 1, ours by n


def test_whitened_images_stay_as_they_are(folder, published):
    spec = replace(SPEC, std=(0.2, 0.25, 0.3))
    save_mtt(folder, published, CLASSES)
    imported = load(folder, spec=spec, zca=PUBLISHED_ZCA)
    assert torch.equal(imported.images, published[IN_ORDER])
    assert imported.zca == pytest.approx(PUBLISHED_ZCA * 3 / (0.04 + 0.0625 + 0.09))
    assert imported.parameters["published_zca"] == PUBLISHED_ZCA
    shown = imported.pixels()
    assert torch.equal(shown, stretch(imported.images))
    assert shown.dtype == torch.uint8
    assert float(shown.float().mean()) == pytest.approx(127.5, abs=8)


def test_logits_of_datm_become_probabilities(folder, published):
    logits = 4 * F.one_hot(CLASSES, 3).float() - 1
    logits[0] = torch.tensor([0.5, -2.0, 7.0])
    save_mtt(folder, published, logits.requires_grad_(), rate=0.02)
    imported = load(folder, normalised=True)
    expected = (logits.detach().double().exp() / logits.detach().double().exp().sum(1)[:, None])[
        IN_ORDER
    ]
    torch.testing.assert_close(imported.labels.double(), expected, rtol=1e-5, atol=1e-7)
    assert imported.labelling.kind == "learned"
    assert imported.labelling.teachers == ()
    assert any("softmax" in sentence for sentence in imported.parameters["assumed"])
    warm = load(folder, normalised=True, soft_labels="logits", temperature=2.0)
    assert warm.labelling.temperature == 2.0
    assert float(warm.labels.max()) < float(imported.labels.max())


def test_a_learned_label_may_favour_another_class(folder, published):
    logits = 4 * F.one_hot(torch.tensor([0, 0, 1, 1, 2, 2]), 3).float() - 1
    logits[2] = torch.tensor([0.3, 0.2, 0.1])
    save_mtt(folder, published, logits)
    imported = load(folder, normalised=True)
    assert imported.labels.argmax(dim=1).tolist() == [0, 0, 0, 1, 2, 2]
    torch.testing.assert_close(imported.labels, logits.softmax(1))  # still in their order
    shuffled = torch.tensor([5, 2, 0, 3, 1, 4])
    save_mtt(folder, published, logits[shuffled])
    refused(folder, "cat 3, dog 1, frog 2", normalised=True)


def test_probabilities_stay_and_what_is_neither_is_refused(folder, published):
    probabilities = F.one_hot(CLASSES, 3) * 0.7 + 0.1
    save_mtt(folder, published, probabilities)
    assert torch.equal(load(folder, normalised=True).labels, probabilities[IN_ORDER])
    save_mtt(folder, published, probabilities * 2)
    refused(folder, "sums to 2", "--soft-labels logits", normalised=True)
    said = load(folder, normalised=True, soft_labels="logits")
    torch.testing.assert_close(said.labels, (probabilities * 2).softmax(1)[IN_ORDER])
    with pytest.raises(ProxyFileError, match="sums to 2"):
        load(folder, normalised=True, soft_labels="probabilities")


@pytest.mark.parametrize("names", [["0", "100"], ["best", "0"]])
def test_one_of_several_files_must_be_named(folder, published, names):
    for name in names:
        save_mtt(folder, published, CLASSES, name=name)
    if "best" in names:
        assert load(folder, normalised=True).parameters["file"] == "one"
    else:
        refused(folder, "images_0.pt", "images_100.pt", "name one", normalised=True)
    assert len(load(folder / "images_0.pt", normalised=True)) == 6


def test_labels_must_be_there(folder, published):
    torch.save(published, folder / "images_best.pt")
    refused(folder, "labels_best.pt", normalised=True)
    torch.save(CLASSES, folder / "elsewhere.pt")
    assert len(load(folder, normalised=True, labels=folder / "elsewhere.pt")) == 6
    torch.save(published, folder / "synthetic.pt")
    refused(folder / "synthetic.pt", "--labels", normalised=True)


# IDC


def decoded_by_hand(images, factor):
    """IDC's decoding, for sides that the factor divides: crop tile by tile, then upsample."""
    side = images.shape[-1] // factor
    grown = torch.nn.Upsample(size=images.shape[-1], mode="bilinear")
    rows = [
        grown(images[:, :, i * side : (i + 1) * side, j * side : (j + 1) * side])
        for i in range(factor)
        for j in range(factor)
    ]
    return torch.stack(rows, dim=1)  # (n, tile, c, h, w)


@pytest.mark.parametrize("factor", [1, 2])
def test_idc_images_are_decoded_as_its_authors_do(tmp_path, pixels, factor):
    folder = tmp_path / f"conv3in_grad_mse_nd2000_cut_niter2000_factor{factor}_lr0.005_mix_ipc2"
    folder.mkdir()
    torch.save([pixels, CLASSES], folder / "data.pt")
    for path in (folder, folder / "data.pt"):
        imported = load(path)
        assert imported.decode_factor == factor
        assert imported.images_per_class == 2
        expected = decoded_by_hand(pixels[IN_ORDER], factor).flatten(0, 1)
        made = imported.training_images() * column(SPEC.std) + column(SPEC.mean)
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)
        assert imported.labels.tolist() == sorted([0, 0, 1, 1, 2, 2] * factor**2)
    assert imported.augmentation.cutmix == 1.0
    assert "cutout" not in imported.augmentation.dsa


def test_the_number_of_tiles_is_not_guessed(folder, pixels):
    torch.save([pixels, CLASSES], folder / "data.pt")
    refused(folder, "--decode-factor")
    assert load(folder, decode_factor=2).decode_factor == 2
    many = folder / "factor2_multi_lr0.005"
    many.mkdir()
    torch.save([pixels, CLASSES], many / "data.pt")
    refused(many, "several sizes")


def test_pixels_a_little_outside_are_still_unnormalised(folder, pixels):
    torch.save([pixels * 1.2 - 0.1, CLASSES], folder / "data.pt")
    imported = load(folder, decode_factor=1)
    expected = (pixels * 1.2 - 0.1)[IN_ORDER]
    torch.testing.assert_close(shown_pixels(imported), expected, rtol=0, atol=1e-6)
