"""What a configuration may ask of a cluster, and what is refused before one is looked for."""

import re

import pytest

from nas_proxy.cluster.interface import Node, num_fitting, resource_fault
from nas_proxy.cluster.settings import RaySettings
from nas_proxy.core import extras
from nas_proxy.errors import ConfigError
from nas_proxy.study.config import check_config

MINIMAL = {
    "study_name": "tiny",
    "distill": {"name": "random_subset"},
    "space": {"name": "convnet"},
    "train": {"num_steps": 2},
    "score": {"signals": ["val_loss"]},
}


def checked(device="cpu", **ray):
    search = {"executor": "ray", "ray": ray}
    return check_config({**MINIMAL, "device": device, "search": search})


def test_what_a_slot_is_given():
    settings = checked(num_cpus=0.5, memory_gb=2).search.ray
    assert settings.resources == {"CPU": 0.5, "memory": 2e9}
    assert settings.slots_per_gpu == 1
    assert RaySettings(num_gpus=0.25).slots_per_gpu == 4
    assert RaySettings(num_gpus=1 / 3).slots_per_gpu == 3


@pytest.mark.parametrize(
    ("ray", "expected"),
    [
        ({"address": "ray://head:10001"}, "is no Ray client: run it on a node of the cluster"),
        ({"num_gpus": 1.5}, "num_gpus is 1.5, but Ray divides no more than one GPU"),
        ({"num_cpus": 0}, "give at least one of them"),
        ({"num_cpus": -1}, "search.ray.num_cpus"),
        ({"num_gpu": 1}, "did you mean 'num_gpus'"),
        ({"evaluation_timeout": 0}, "search.ray.evaluation_timeout"),
        ({"evaluation_timeout": "never"}, "search.ray.evaluation_timeout"),
        ({"num_gpus": 1}, "slots have num_gpus 1, but networks are trained on device cpu"),
    ],
)
def test_what_makes_no_sense_is_refused(ray, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        checked(**ray)


def test_without_the_extra_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(ConfigError, match=r"pip install 'nas-proxy\[ray\]', or use processes"):
        checked()


NODES = [
    Node("1", "small", "10.0.0.1", {"CPU": 4, "memory": 8e9}),
    Node("2", "fast", "10.0.0.2", {"CPU": 2, "GPU": 1, "memory": 16e9}),
    Node("3", "gone", "10.0.0.3", {"CPU": 64, "GPU": 8, "memory": 512e9}, is_alive=False),
]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"CPU": 2, "GPU": 0.25}, ""),
        ({"CPU": 8}, "num_cpus asks for 8 .* the most is 4, of small"),
        ({"CPU": 1, "GPU": 2}, "num_gpus asks for 2 .* the most is 1, of fast"),
        ({"memory": 32e9}, r"memory_gb asks for 32.0 GB .* the most is 16.0 GB, of fast"),
        ({"CPU": 4, "GPU": 1}, "num_cpus 4, num_gpus 1 .* none of 2 nodes has all of it"),
    ],
)
def test_what_no_node_has_is_named(resources, expected):
    fault = resource_fault(resources, NODES)
    assert re.search(expected, fault) if expected else fault == ""


def test_how_many_slots_have_room():
    assert num_fitting({"CPU": 1}, NODES) == 6
    assert num_fitting({"CPU": 1, "GPU": 0.25}, NODES) == 2
    assert num_fitting({"memory": 5e9}, NODES) == 4
