"""Reading folders of pictures that others published, with and without soft labels."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nas_proxy.errors import DataError, ProxyFileError
from tests.interchange.helpers import SPEC, load, refused


def save_pictures(folder, names, per_class=2, size=(8, 8), mode="RGB"):
    """Class folders with PNGs; returns the pixels in the order of sorted names."""
    rng = np.random.default_rng(0)
    found = []
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
            values = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(values).save(folder / name / f"class_id{index:03d}.png")
            found.append(values.reshape(size[1], size[0], -1).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(found))


@pytest.mark.parametrize(
    "names",
    [
        ["00000", "00001", "00002"],
        ["new000", "new001", "new002"],
        ["cat", "dog", "frog"],
        ["0_x", "1_y", "2_z"],
    ],
)
def test_class_folders_of_every_habit_are_read(folder, names):
    pictures = save_pictures(folder, names)
    imported = load(folder)
    assert torch.equal(imported.pixels(), pictures)
    assert imported.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert imported.method == "imported:folder"
    rule = imported.learning_rate_rule
    assert (rule.optimiser, rule.learning_rate, rule.weight_decay) == ("adamw", 1e-3, 0.01)
    assert (rule.schedule, rule.num_epochs, rule.batch_size) == ("cosine", 300, 50)


def test_numbers_of_folders_are_labels_not_their_rank(folder):
    pictures = save_pictures(folder, ["new10", "new2", "new3"])
    refused(folder, "new10", "0 to 2")
    save_pictures(folder / "b", ["class_2", "class_0", "class_1"])
    imported = load(folder / "b")
    assert torch.equal(imported.pixels()[4:], pictures[:2])  # the first that were drawn


def test_folders_of_other_classes_are_refused(folder):
    save_pictures(folder, ["n01440764", "n02102040", "n02979186"])
    refused(folder, "n01440764", "names of the 3 classes of cifar10")


@pytest.mark.parametrize("ending", ["pt", "npy", "safetensors"])
def test_soft_labels_beside_pictures(folder, ending):
    save_pictures(folder, ["00000", "00001", "00002"])
    labels = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    labels = labels / labels.sum(1, keepdim=True)
    if ending == "pt":
        torch.save(labels.half(), folder / "labels.pt")
    elif ending == "npy":
        np.save(folder / "labels.npy", labels.numpy())
    else:
        from safetensors.torch import save_file

        save_file({"labels": labels}, folder / "labels.safetensors")
    imported = load(folder, temperature=20.0)
    torch.testing.assert_close(imported.labels, labels, rtol=0, atol=5e-4)
    assert (imported.labelling.kind, imported.labelling.temperature) == ("soft", 20.0)
    np.save(folder / "soft_labels.npy", labels.numpy())
    refused(folder, "--labels")


def test_a_wrong_number_of_soft_labels_is_refused(folder):
    save_pictures(folder, ["00000", "00001", "00002"])
    np.save(folder / "labels.npy", np.full((5, 3), 1 / 3))
    refused(folder, "5 labels for 6 images")
    np.save(folder / "labels.npy", np.full((6, 4), 1 / 4))
    refused(folder, "(6, 4)", "(number, 3)")


def write_table(folder, rows, header=("file", "class", "frog", "cat", "dog")):
    with (folder / "labels.csv").open("w", newline="") as text:
        csv.writer(text).writerows([header, *rows])


def test_a_table_names_pictures_in_any_order(folder):
    pictures = save_pictures(folder, ["a", "b", "c"])
    files = [f"{name}/class_id{index:03d}.png" for name in "abc" for index in (0, 1)]
    classes = ["dog", "dog", "cat", "cat", "frog", "frog"]
    rows = [
        [file, name, 0.125, 0.25 + 0.0625 * index, 0.625 - 0.0625 * index]
        for index, (file, name) in enumerate(zip(files, classes, strict=True))
    ]
    write_table(folder, rows[::-1])
    imported = load(folder)
    order = [2, 3, 0, 1, 4, 5]
    assert torch.equal(imported.pixels(), pictures[order])
    expected = [[0.25 + 0.0625 * i, 0.625 - 0.0625 * i, 0.125] for i in order]
    assert imported.labels.tolist() == expected
    write_table(folder, [row[:2] for row in rows], header=("file", "class"))
    assert load(folder).labels.tolist() == [0, 0, 1, 1, 2, 2]
    write_table(folder, rows[:-1])
    refused(folder, "labels.csv", "c/class_id001.png")
    write_table(folder, [*rows, [rows[0][0], *rows[1][1:]]])
    refused(folder, "name every picture once", rows[0][0])
    write_table(folder, [rows[0][:3], *rows[1:]])
    refused(folder, "each row must have 5 cells", rows[0][0])
    write_table(folder, [[rows[0][0], "horse", *rows[0][2:]], *rows[1:]])
    refused(folder, "no class 'horse'")
    write_table(folder, rows, header=("file", "class", "x", "y", "z"))
    refused(folder, "columns must be")
    (folder / "labels.csv").write_text("")
    refused(folder, "columns must be")


def test_labels_of_batches_are_refused(folder, published):
    save_pictures(folder, ["00000", "00001", "00002"])
    fkd = folder.parent / "FKD"
    (fkd / "epoch_0").mkdir(parents=True)
    batch = [torch.zeros(4, 4), torch.zeros(4), None, None, None, torch.zeros(4, 3)]
    torch.save(batch, fkd / "epoch_0" / "batch_0.tar")
    for labels in (fkd, fkd / "epoch_0"):
        refused(folder, "FKD", "distill.labels", labels=labels)
    for path in (fkd, fkd / "epoch_0" / "batch_0.tar"):
        refused(path, "FKD")


def test_pictures_are_never_resized(folder):
    save_pictures(folder, ["00000", "00001", "00002"], size=(9, 8))
    refused(folder, "9x8", "8x8", "data.image_size")


def test_grey_data_sets_take_grey_pictures(folder):
    spec = replace(SPEC, image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
    pictures = save_pictures(folder / "grey", ["00000", "00001", "00002"], mode="L")
    imported = load(folder / "grey", spec=spec)
    assert torch.equal(imported.pixels(), pictures)
    assert not imported.augmentation.flip
    save_pictures(folder / "colour", ["00000", "00001", "00002"])
    refused(folder / "colour", "colour", spec=spec)


def test_damaged_pictures_and_words_that_do_not_fit(folder):
    save_pictures(folder, ["00000", "00001", "00002"])
    refused(folder, "bytes", zca=0.1)
    refused(folder, "bytes", normalised=True)
    refused(folder, "--mean and --std", mean=(0.1,) * 3, std=(0.2,) * 3)
    (folder / "00001" / "class_id000.png").write_bytes(b"no picture")
    refused(folder, "00001/class_id000.png", error=DataError)


def test_a_part_for_testing_is_refused(folder):
    for part in ("train", "val"):
        save_pictures(folder / part, ["00000", "00001", "00002"])
    torch.save(0, folder / "labels.pt")
    with pytest.raises(ProxyFileError, match="none of what is published|part for testing"):
        load(folder)
