"""The table of backbones and its picture, and the commands."""

import json

import pytest
from click.testing import CliRunner
from torchvision import models

from nas_proxy.backbones import catalogue
from nas_proxy.backbones.catalogue import list_backbones
from nas_proxy.backbones.zoo import backbone_names
from nas_proxy.cli.backbones import _count
from nas_proxy.cli.main import cli, main
from nas_proxy.report.backbone_figure import _front, draw_backbones

FEW = ["mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(catalogue, "backbone_names", lambda: FEW)


def test_every_network_has_what_the_table_takes_from_its_weights():
    for name in backbone_names():
        meta = models.get_model_weights(name).DEFAULT.meta
        assert meta["num_params"] > 0
        assert meta["_ops"] > 0
        assert 0 < meta["_metrics"]["ImageNet-1K"]["acc@1"] < 100


def test_the_facts_are_those_of_torchvision(few):
    (facts,) = [row for row in list_backbones() if row.name == "squeezenet1_1"]
    network = models.squeezenet1_1()
    assert facts.num_params == sum(weight.numel() for weight in network.parameters())
    assert facts.accuracy == pytest.approx(0.58178)
    assert (facts.image_size, facts.smallest_size) == (224, 32)
    assert facts.head == "classifier.1: 1x1 convolution, 512 to 1000"
    assert facts.latency_seconds is None


@pytest.mark.parametrize(
    ("sort", "attribute", "sign"),
    [("params", "num_params", 1), ("accuracy", "accuracy", -1), ("flops", "multiply_adds", 1)],
)
def test_the_best_comes_first(few, sort, attribute, sign):
    values = [sign * getattr(row, attribute) for row in list_backbones(sort=sort)]
    assert values == sorted(values)
    assert len(values) == 4


def test_latency_is_measured_at_the_published_size(few):
    seen = []

    def measure(network, shape):
        seen.append(shape)
        return 1.0 / len(seen)

    rows = list_backbones(sort="latency", max_params=2_000_000, measure=measure)
    assert seen == [(3, 224, 224)] * 2
    assert [row.latency_seconds for row in rows] == [0.5, 1.0]


def test_the_command_prints_a_table_or_json_and_draws(few, tmp_path):
    picture = tmp_path / "backbones.png"
    runner = CliRunner()
    shown = runner.invoke(cli, ["backbones", "--sort", "accuracy", "--picture", str(picture)])
    assert shown.exit_code == 0, shown.output
    assert "mobilenet_v3_small" in shown.output
    assert "non-commercial" in shown.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = runner.invoke(cli, ["backbones", "--max-params", "1.3M", "--json"])
    rows = json.loads(told.stdout)
    assert [row["name"] for row in rows] == ["squeezenet1_1"]


def test_no_backbone_left_is_said(few, capsys):
    with pytest.raises(SystemExit) as left:
        main(["backbones", "--max-params", "10k"])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert "no backbone has 10,000 parameters or fewer" in told
    assert "the smallest, squeezenet1_1, has 1,235,496" in told


@pytest.mark.parametrize(
    ("text", "number"), [("10M", 10**7), ("500k", 500_000), ("1.5e6", 1_500_000), ("2B", 2 * 10**9)]
)
def test_numbers_as_people_write_them(text, number):
    assert _count(None, None, text) == number


@pytest.mark.parametrize("text", ["many", "-3", "10 M", "1e400"])
def test_numbers_that_are_none_are_refused(text):
    shown = CliRunner().invoke(cli, ["backbones", "--max-params", text])
    assert shown.exit_code == 2
    assert f"{text!r} is no number such as 10M or 500k" in shown.output


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(few, capsys, device):
    with pytest.raises(SystemExit) as left:
        main(["backbones", "--latency", "--device", device])
    assert left.value.code == 2
    assert f"device is {device!r}" in capsys.readouterr().err


def test_the_front_beats_all_others():
    assert _front([3, 1, 2, 2], [90, 70, 60, 80]) == [1, 3, 0]


def test_a_single_backbone_can_be_drawn(few):
    rows = list_backbones(max_params=1_300_000)
    assert draw_backbones(rows).startswith(b"\x89PNG")
