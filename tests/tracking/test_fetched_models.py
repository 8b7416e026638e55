"""A registered model's weights come back from MLflow's registry."""

import pytest

from nas_proxy.errors import StudyError
from nas_proxy.tracking._mlflow_border import default_uri, make_database, prepare_environment
from nas_proxy.tracking._runs import TrackingSettings
from nas_proxy.tracking.registry.fetched_models import fetch_model


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder whose registry knows one model of ours and one of somebody else."""
    prepare_environment()
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("results")
    make_database(folder / "mlflow.db")
    client = MlflowClient(tracking_uri=default_uri(folder))
    for name, file in (("ours", "extra_files/model.safetensors"), ("theirs", "model.pkl")):
        path = folder / name / file
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights")
        client.create_registered_model(name)
        client.create_model_version(name, str(folder / name))
    client.set_registered_model_alias("ours", "champion", "1")
    return folder


@pytest.mark.parametrize("address", ["models:/ours@champion", "models:/ours/1"])
def test_by_alias_and_by_version(results, tmp_path, address, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:1")  # meant for other programs
    path = fetch_model(address, TrackingSettings(), results, tmp_path)
    assert path.read_bytes() == b"weights"
    assert path.parent == tmp_path


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("models:/ours@nobody", "cannot be fetched from"),
        ("models:/none/1", "check its name and version"),
        ("models:/ours/9", "cannot be fetched from"),
        ("models:/theirs/1", "holds no model.safetensors, so it was not made by the stage retrain"),
    ],
)
def test_what_is_not_there_is_one_sentence(results, tmp_path, address, said):
    with pytest.raises(StudyError, match=said) as caught:
        fetch_model(address, TrackingSettings(), results, tmp_path)
    assert address in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_results_folder_without_a_registry_stays_without_one(tmp_path):
    with pytest.raises(StudyError, match="nothing has been registered"):
        fetch_model("models:/ours/1", TrackingSettings(), tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())
