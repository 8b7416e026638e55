"""The section `knowledge_distillation`."""

import re
from pathlib import Path

import pytest
import yaml

from nas_proxy.knowledge_distillation.settings import (
    PUBLISHED,
    KnowledgeDistillationOption,
    KnowledgeDistillationSettings,
)
from nas_proxy.study.plain_values import check_value, dump_options
from tests.knowledge_distillation.helpers import READ

ONE, TWO = ["resnet18"], ["resnet18", "vgg11"]


def faults(section):
    found = []
    check_value(KnowledgeDistillationOption, section, ("knowledge_distillation",), found)
    return found


def test_what_is_left_out_is_as_published():
    (term,) = READ({"kind": "response", "variant": "decoupled", "teachers": ONE}).terms
    assert (term.temperature, term.weight, term.target_weight, term.non_target_weight) == (
        4,
        1,
        1,
        8,
    )
    (attention,) = READ({"kind": "attention", "teachers": ONE}).terms
    assert attention.weight == 1000
    (relational,) = READ({"kind": "relational", "teachers": ONE}).terms
    assert (relational.distance_weight, relational.angle_weight) == (25, 50)


def test_shorthands_mean_the_same():
    full = READ({"terms": [{"kind": "self", "variant": "generations"}]})
    assert READ("self") == READ({"kind": "self"}) == READ([{"kind": "self"}]) == full


def test_keys_of_the_whole_may_stand_beside_those_of_a_term():
    found = READ({"kind": "response", "temperature": 2, "teachers": ONE, "hard_weight": 1})
    assert found.terms[0].temperature == 2
    assert found.labels_weight == 1


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_resolved_section_reads_back_the_same(kind):
    for variant in PUBLISHED[kind]:
        teachers = [] if kind == "self" else TWO if kind == "multi_teacher" else ONE
        found = READ({"kind": kind, "variant": variant, "teachers": teachers})
        assert READ(dump_options(found)) == found
        assert hash(found) == hash(READ(dump_options(found)))


def test_the_labels_have_what_one_soft_term_leaves_and_else_all():
    assert READ(
        {"kind": "response", "weight": 0.7, "teachers": ONE}
    ).labels_weight == pytest.approx(0.3)
    assert READ({"kind": "attention", "teachers": ONE}).labels_weight == 1
    terms = [{"kind": "response"}, {"kind": "attention"}]
    assert READ({"terms": terms, "teachers": ONE}).labels_weight == 1


def test_each_teacher_is_asked_for_once():
    terms = [{"kind": "response"}, {"kind": "attention", "teachers": "vgg11"}, {"kind": "self"}]
    found = READ({"teachers": ONE, "terms": terms})
    assert [t.network.name for t in found.all_teachers] == ["resnet18", "vgg11"]
    assert found.num_generations == 1
    assert [t.kind for t in found.first_generation().terms] == ["response", "attention"]
    assert READ("self").first_generation() is None


def test_teachers_are_files_registered_models_torchvisions_or_fixed_networks():
    words = ["a/b.safetensors", "models:/name@champion", "torchvision:resnet50", "vgg11"]
    found = READ({"kind": "multi_teacher", "teachers": words}).all_teachers
    assert [t.checkpoint for t in found[:2]] == words[:2]
    assert found[2].pretrained.name == "resnet50"
    assert found[3].network.name == "vgg11"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"kind": "respnse"}, "did you mean 'response'?"),
        ({"kind": "response", "variant": "decopled", "teachers": ONE}, "did you mean 'decoupled'?"),
        ({"kind": "attention", "variant": "x", "teachers": ONE}, "no variant 'x'; leave it out"),
        (
            {"kind": "response", "temperature": 0, "teachers": ONE},
            "should be greater than 0 (got 0)",
        ),
        ({"kind": "response", "temperature": -1, "teachers": ONE}, "should be greater than 0"),
        ({"kind": "response", "temperature": "autos", "teachers": ONE}, "should be a valid number"),
        ({"kind": "response", "weight": True, "teachers": ONE}, "expected a number, got true"),
        ({"kind": "attention", "temperature": 4, "teachers": ONE}, "attention has no temperature"),
        ({"kind": "response", "angle_weight": 4, "teachers": ONE}, "(hinton) has no angle_weight"),
        ({"kind": "response"}, "needs one teacher, got 0; name it under teachers"),
        ({"kind": "response", "teachers": TWO}, "needs one teacher, got 2; use multi_teacher"),
        ({"kind": "multi_teacher", "teachers": ONE}, "needs two teachers or more, got 1"),
        ([{"kind": "self", "teachers": ONE}], "teaches itself has no other teachers"),
        ({"terms": []}, "at least one term"),
        ({"terms": [{"kind": "self"}] * 2}, "one term only; set num_generations"),
        ({"kind": "self", "auto_num_steps": 3}, "nothing is auto"),
        ({"kind": "response", "temperature": 1e4, "teachers": ONE}, "less than or equal to 1000"),
        ({"kind": "self", "teachers": ONE}, "no other teachers; leave them out"),
        ({"kind": "multi_teacher", "teachers": ONE * 2}, "names the same teacher twice"),
        (
            {"kind": "response", "weight": 0, "teachers": ONE, "hard_weight": 0},
            "nothing would be learned",
        ),
        (
            [{"kind": "self"}, {"kind": "response", "weight": 2, "teachers": ONE}],
            "set hard_weight too",
        ),
        ({"kind": "response", "weight": 2, "teachers": ONE}, "set hard_weight too"),
        ({"kind": "self", "unlabelled": "x"}, "no teacher but itself"),
        (
            {"kind": "response", "variant": "decoupled", "unlabelled": "x", "teachers": ONE},
            "looks at the true class",
        ),
        ({"kind": "response", "unlabelled": "", "teachers": ONE}, "unlabelled names no folder"),
        ({"kind": "self", "wieght": 1}, "did you mean 'weight'?"),
        ({"terms": [{"kind": "self"}], "hrd_weight": 1}, "did you mean 'hard_weight'?"),
        (3, "should be a section with keys"),
    ],
)
def test_wrong_input_is_one_clear_sentence(section, said):
    found = faults(section)
    assert len(found) == 1, found
    assert said in found[0]
    assert found[0].startswith("knowledge_distillation")


def test_settings_made_in_python_are_checked_too():
    with pytest.raises(ValueError, match="at least one term"):
        KnowledgeDistillationSettings(terms=())


def test_the_guides_examples_can_be_read():
    guide = Path(__file__).parents[2] / "docs" / "knowledge_distillation.md"
    examples = re.findall(r"^```yaml\n(.*?)^```$", guide.read_text(), re.DOTALL | re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        assert READ(yaml.safe_load(example)["knowledge_distillation"]).terms


def test_the_guides_table_has_the_published_values():
    guide = (Path(__file__).parents[2] / "docs" / "knowledge_distillation.md").read_text()
    for kind, variants in PUBLISHED.items():
        assert f"| `{kind}` |" in guide
        for variant in filter(None, variants):
            assert f"`{variant}`" in guide
