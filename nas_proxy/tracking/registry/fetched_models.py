"""Registered models of earlier studies, back from MLflow's registry."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import StudyError, masked
from nas_proxy.reproducibility import content_hash
from nas_proxy.tracking._mlflow_border import default_uri, prepare_environment, reason_of
from nas_proxy.tracking._runs import TrackingSettings

MODEL_FILE = "model.safetensors"


def fetch_model(address: str, settings: TrackingSettings, results: Path, folder: Path) -> Path:
    """Get the weights of a model that the stage `retrain` registered.

    Args:
        address: Such as `models:/nas_proxy.model.convnet.cifar10.1f0c3a7e@champion`, or with `/3`.
        settings: Which store.
        results: Holds the default store.
        folder: Where the file goes.

    Raises:
        StudyError: If there is no such model, it holds no `model.safetensors`, or the store cannot
            be reached.
        OSError: If the folder cannot be written or the disk is full.
    """
    prepare_environment()
    import mlflow

    if settings.uri is None and not (results / "mlflow.db").is_file():
        raise StudyError(
            f"the model {address} cannot be fetched, because nothing has been registered in "
            f"{results} yet; set tracking.uri to the server that holds it, or name its file"
        )
    uri = settings.uri or default_uri(results)
    with TemporaryDirectory() as draft:
        try:
            client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
            name, separator, wanted = address.removeprefix("models:/").rpartition("@")
            if separator:
                version = client.get_model_version_by_alias(name, wanted).version
            else:
                name, _, version = address.removeprefix("models:/").rpartition("/")
            source = client.get_model_version_download_uri(name, str(version))
            mlflow.artifacts.download_artifacts(source, dst_path=draft, tracking_uri=uri)
        except Exception as error:
            raise StudyError(
                f"the model {address} cannot be fetched from {masked(uri)} ({reason_of(error)}); "
                "check its name and version in `nas-proxy ui`, or name its model.safetensors"
            ) from error
        found = sorted(Path(draft).rglob(MODEL_FILE))
        if not found:
            raise StudyError(
                f"the model {address} holds no {MODEL_FILE}, so it was not made by the stage "
                "retrain; name a model that was, or a file"
            )
        content = found[0].read_bytes()
    path = folder / f"{content_hash(address)}.safetensors"
    write_atomically(path, content)
    return path
