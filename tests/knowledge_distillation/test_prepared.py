"""Students: teachers, their files, leaks, generations, what is auto, and evaluators that teach."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.splits import image_hashes
from nas_proxy.data.transforms import normalise
from nas_proxy.errors import DataError, StudyError
from nas_proxy.evaluate.executors import open_executor
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.evaluate.tuning import tune_distillation
from nas_proxy.export.model_file import DeployedModel, ModelOrigin, save_model
from nas_proxy.interfaces import DistillContext
from nas_proxy.knowledge_distillation import tuning
from nas_proxy.knowledge_distillation._term import UNLABELLED
from nas_proxy.knowledge_distillation.prepared import (
    KnowledgeDistillation,
    LoadedKnowledgeDistillation,
    prepare_distillation,
)
from nas_proxy.knowledge_distillation.teachers import Teachers
from nas_proxy.networks.catalogue import FixedNetworks, NetworkSettings
from nas_proxy.processes import pack, unpack
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.teachers.training import obtain_teacher, read_teacher
from nas_proxy.train.phases import Phase
from tests.knowledge_distillation.helpers import (
    READ,
    SETTINGS,
    TRAINING_SET,
    has_hooks,
    net,
    trained_teacher,
)

DIGITS = DataSettings(images_per_class=12)
STUDENT = FixedNetworks().architecture(NetworkSettings(name="convnet", width=4, depth=2))
PHASES = (Phase("training", SETTINGS),)
NOBODY = Teachers()


def small(name):
    return {"network": {"name": name, "width": 4}, "train": {"num_steps": 8, "batch_size": 16}}


ONE, TWO = [small("resnet18")], [small("resnet18"), small("vgg11")]


@pytest.fixture(scope="module")
def splits():
    return load_splits(DIGITS)


def factory(splits, knowledge_distillation=None, **changes):
    spec, number = splits.spec, len(splits.search_train)
    return NetworkEvaluatorFactory(
        data=DIGITS,
        space=FixedNetworks(),
        scores={},
        settings=SETTINGS,
        train_on="search_train",
        device="cpu",
        fidelity=training_fidelity(SETTINGS, spec, spec.source_hash, number),
        knowledge_distillation=knowledge_distillation,
        **changes,
    )


def evaluated(made, seed=3):
    found = made.build().evaluate(STUDENT, seed)
    assert found.complete, found.reason
    return found


# --- teachers and evaluators ------------------------------------------------------------------


def test_a_lesson_travels_to_a_worker_and_changes_what_is_learned(splits, tmp_path):
    knowledge_distillation = prepare_distillation(
        READ({"kind": "response", "teachers": ONE}), splits, DistillContext(), tmp_path
    )
    assert knowledge_distillation.num_leaked_images == (0,)
    assert knowledge_distillation.teaching_seconds > 0
    made = unpack(pack(factory(splits, knowledge_distillation)))
    taught, again, alone = evaluated(made), evaluated(made), evaluated(factory(splits))
    assert taught.train_losses == again.train_losses != alone.train_losses


def test_teachers_are_weighted_by_what_they_reach_on_the_validation_images(splits, tmp_path):
    section = {"kind": "multi_teacher", "variant": "val_loss", "teachers": TWO}
    knowledge_distillation = prepare_distillation(
        READ(section), splits, DistillContext(cache=tmp_path), tmp_path
    )
    for path, accuracy, loss in zip(
        knowledge_distillation.files,
        knowledge_distillation.val_accuracies,
        knowledge_distillation.val_losses,
        strict=True,
    ):
        logits = read_teacher(path).logits(normalise(splits.search_val.images, splits.spec))
        labels = splits.search_val.labels
        assert loss == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-4)
        assert accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    plain = prepare_distillation(
        READ({**section, "variant": "mean"}), splits, DistillContext(cache=tmp_path), tmp_path
    )
    assert plain.val_losses == ()
    assert plain.files == knowledge_distillation.files
    assert plain.identity != knowledge_distillation.identity


def test_a_teacher_of_another_split_is_refused(splits, tmp_path):
    other = load_splits(DataSettings(seed=1)).search_train
    (settings,) = READ({"kind": "response", "teachers": ONE}).all_teachers
    teacher = obtain_teacher(settings, other, DistillContext())
    path = tmp_path / "teacher.safetensors"
    teacher.save(path)
    section = {"kind": "response", "teachers": str(path)}
    files = tmp_path / "files"
    with pytest.raises(StudyError, match=r"set retrain.knowledge_distillation.allow_leakage=true"):
        prepare_distillation(
            READ(section), splits, DistillContext(), files, section="retrain.knowledge_distillation"
        )
    allowed = READ({**section, "allow_leakage": True})
    knowledge_distillation = prepare_distillation(allowed, splits, DistillContext(), files)
    assert knowledge_distillation.num_leaked_images[0] > 0


def test_what_cannot_be_learned_is_a_failed_evaluation_that_says_why(splits, tmp_path):
    knowledge_distillation = prepare_distillation(
        READ({"kind": "attention", "teachers": ONE}), splits, DistillContext(), tmp_path
    )
    mlp = FixedNetworks().architecture(NetworkSettings(name="mlp", width=4))
    found = factory(splits, knowledge_distillation).build().evaluate(mlp, 0)
    assert not found.complete
    assert "those of the first are none" in found.reason


# --- winners ----------------------------------------------------------------------------------


def winner(path, spec, space=None):
    space = space or ConvNetSpace()
    architecture = space.sample(make_generator(0))
    with isolated_rng(0):
        network = space.build(architecture, spec)
    save_model(DeployedModel(network, ModelOrigin.of(space, architecture, spec)), path)
    return network.eval()


def test_a_previous_winner_teaches(splits, tmp_path):
    path = tmp_path / "model.safetensors"
    network = winner(path, splits.spec)
    settings = READ({"kind": "response", "teachers": str(path)})
    knowledge_distillation = prepare_distillation(
        settings, splits, DistillContext(), tmp_path / "files"
    )
    images = normalise(splits.search_val.images, splits.spec)
    (kept,) = knowledge_distillation.files
    torch.testing.assert_close(read_teacher(kept).logits(images), network(images))
    assert evaluated(factory(splits, knowledge_distillation)).train_losses
    fetched = []

    def fetch(address):
        fetched.append(address)
        return path

    registered = READ({"kind": "response", "teachers": "models:/name@champion"})
    again = prepare_distillation(
        registered, splits, DistillContext(fetch_model=fetch), tmp_path / "files"
    )
    assert fetched == ["models:/name@champion"]
    assert again.files == knowledge_distillation.files


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source_hash": "another"}, "may have seen those that judge its students"),
        ({"class_names": tuple("abcdefghij")}, "tells the classes a, b, c"),
    ],
)
def test_a_winner_of_other_images_or_classes_is_refused(splits, tmp_path, change, said):
    path = tmp_path / "model.safetensors"
    winner(path, replace(splits.spec, **change))
    with pytest.raises(DataError, match=said):
        prepare_distillation(
            READ({"kind": "response", "teachers": str(path)}), splits, DistillContext(), tmp_path
        )


# --- generations ------------------------------------------------------------------------------


def generations(section, seed=0, checkpoint=None, teachers=NOBODY):
    built = []

    def build():
        built.append(net(seed=len(built) + 10 * seed))
        return built[-1]

    knowledge_distillation, seconds = LoadedKnowledgeDistillation(
        READ(section), teachers
    ).after_generations(build, TRAINING_SET, PHASES, seed, checkpoint)
    return knowledge_distillation, seconds, built


def test_each_generation_is_taught_by_the_one_before():
    knowledge_distillation, seconds, built = generations({"kind": "self", "num_generations": 2})
    assert len(built) == 2
    assert seconds > 0
    assert knowledge_distillation.teachers.earlier.network is built[1]
    assert not any(parameter.requires_grad for parameter in built[1].parameters())
    assert not has_hooks(built[0])
    plain, _, first = generations({"kind": "self", "num_generations": 1})
    for one, other in zip(first[0].parameters(), built[0].parameters(), strict=True):
        assert torch.equal(one, other)
    assert plain.teachers.earlier.network is first[0]
    none, _, built = generations({"kind": "self", "variant": "exits"})
    assert built == []
    assert none.teachers.earlier is None


def test_generations_compose_with_teachers():
    section = {"teachers": ["resnet18"], "terms": [{"kind": "self"}, {"kind": "response"}]}
    knowledge_distillation, _, built = generations(section, teachers=Teachers((trained_teacher(),)))
    student = net(seed=5)
    with knowledge_distillation.objective(student, TRAINING_SET, PHASES, make_generator(0)) as made:
        assert len(made.terms) == 2
    assert len(built) == 1


def test_a_finished_generation_is_not_trained_again(tmp_path):
    checkpoint = Checkpointer(tmp_path / "state.safetensors", "key")
    _, _, built = generations("self", checkpoint=checkpoint)
    other = Checkpointer(tmp_path / "state.safetensors", "key")
    knowledge_distillation, _, _ = generations("self", checkpoint=other)
    again = knowledge_distillation.teachers.earlier.network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in built[0].state_dict().items())


def test_an_evaluator_trains_the_generations_and_keeps_the_heir(splits, tmp_path):
    knowledge_distillation = KnowledgeDistillation(settings=READ("self"))
    taught = evaluated(factory(splits, knowledge_distillation, keep=tmp_path))
    alone = evaluated(factory(splits))
    assert taught.train_losses != alone.train_losses
    assert len(taught.train_losses) == len(alone.train_losses)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


# --- unlabelled images ------------------------------------------------------------------------


def write_images(folder, images):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
def test_unlabelled_images_join_the_training(splits, tmp_path, caplog):
    drawn = torch.randint(0, 256, (10, 1, 8, 8), generator=make_generator(0), dtype=torch.uint8)
    write_images(tmp_path / "images" / "any", drawn)
    (tmp_path / "images" / "more.heic").write_bytes(b"a telephone made this")
    section = {"kind": "response", "teachers": ONE, "unlabelled": str(tmp_path / "images")}
    knowledge_distillation = prepare_distillation(
        READ(section), splits, DistillContext(), tmp_path / "files"
    )
    assert knowledge_distillation.num_unlabelled == 10
    (said,) = caplog.messages
    assert said.startswith("knowledge_distillation.unlabelled: 1 of the files in ")
    made = factory(splits, knowledge_distillation).build()
    training_set = made.evaluation_data.training_set
    assert len(training_set) == len(splits.search_train) + 10
    assert torch.equal(training_set.images[-10:], drawn)
    assert (training_set.labels[-10:] == UNLABELLED).all()
    assert made.evaluate(STUDENT, 0).complete


@pytest.mark.usefixtures("cache")
def test_other_unlabelled_images_make_another_lesson(splits, tmp_path):
    def knowledge_distillation(value):
        Image.new("L", (8, 8), value).save(tmp_path / "image.png")
        section = {"kind": "response", "teachers": ONE, "unlabelled": str(tmp_path)}
        return prepare_distillation(READ(section), splits, DistillContext(), tmp_path / "teachers")

    one, again, other = (
        knowledge_distillation(7),
        knowledge_distillation(7),
        knowledge_distillation(8),
    )
    assert one.identity == again.identity != other.identity


def test_unlabelled_images_that_judge_are_refused(splits, tmp_path):
    write_images(tmp_path / "images", splits.test.images[:3])
    section = {"kind": "response", "teachers": ONE, "unlabelled": str(tmp_path / "images")}
    both = torch.cat([image_hashes(splits.search_val.images), image_hashes(splits.test.images)])
    seen = int(torch.isin(image_hashes(splits.test.images[:3]), both).sum())
    with pytest.raises(StudyError, match=f"{seen} of the 3 unlabelled images"):
        prepare_distillation(READ(section), splits, DistillContext(), tmp_path / "files")


def test_a_folder_without_images_is_refused(splits, tmp_path):
    section = {"kind": "response", "teachers": ONE, "unlabelled": str(tmp_path / "none")}
    with pytest.raises(DataError, match="there is no image in the folder"):
        prepare_distillation(READ(section), splits, DistillContext(), tmp_path / "files")


# --- auto -------------------------------------------------------------------------------------


def test_auto_takes_the_best_on_the_validation_images_term_by_term():
    section = {
        "teachers": ["resnet18"],
        "terms": [
            {"kind": "response", "temperature": "auto", "weight": "auto"},
            {"kind": "attention", "weight": "auto"},
        ],
    }
    asked = []

    def measure(candidates):
        asked.append(candidates)
        assert not any(candidate.is_auto for candidate in candidates)
        return [
            "diverged"
            if each.terms[0].weight == 0.9
            else (0.5 if each.terms[0].temperature in (2, 8) else 0.4, each.terms[0].temperature)
            for each in candidates
        ]

    tuned = tuning.tune(READ(section), measure)
    assert [len(candidates) for candidates in asked] == [12, 3]
    assert tuning.num_trials(READ(section)) == len(tuned.trials) == 15
    response, attention = tuned.settings.terms
    assert (response.temperature, response.weight) == (2, 0.1)  # of equal ones the smaller loss
    assert {each.terms[0].temperature for each in asked[1]} == {2}
    assert [each.terms[1].weight for each in asked[1]] == [100, 1000, 10000]
    assert attention.weight in (100, 1000, 10000)
    assert tuned.trials[2].val_accuracy is None
    assert tuned.trials[2].reason == "diverged"


def test_auto_gives_up_when_nothing_can_be_trained():
    section = {"kind": "response", "temperature": "auto", "teachers": ["resnet18"]}
    with pytest.raises(StudyError, match=r"temperature of response \(hinton\) .* \(it diverged\)"):
        tuning.tune(READ(section), lambda candidates: ["it diverged"] * len(candidates))


def test_auto_is_chosen_by_short_trainings_of_the_architecture(splits, tmp_path):
    section = {"kind": "response", "temperature": "auto", "auto_num_steps": 2, "teachers": ONE}
    knowledge_distillation = prepare_distillation(
        READ(section), splits, DistillContext(), tmp_path / "files"
    )
    with open_executor("serial", 1) as executor:
        arguments = (
            executor,
            factory(splits, knowledge_distillation),
            (STUDENT, 0),
            tmp_path / "auto",
        )
        tuned = tune_distillation(*arguments)
        before = {path: path.read_bytes() for path in Path(tmp_path / "auto").iterdir()}
        assert tune_distillation(*arguments) == tuned  # from what is kept
    assert len(before) == len(tuning.TEMPERATURES)
    best = max(tuned.trials, key=lambda trial: trial.rank_key)
    assert tuned.settings.terms[0].temperature == best.options["temperature"]
    assert tuned.record().trials[0].options == {"temperature": 1.0}
    assert all(b'"num_steps":2' in text for text in before.values())
