"""Whatever a study with worker processes is started from, it needs no guard.

What travels to workers, from a script, a pipe, `-c`, `-m` and with a guard, is in
`tests/test_processes.py`.
"""

import pytest

from tests.cases.helpers import NETWORK, SPACE, python, write_config

IN_PROCESSES = {"n_trials": 2, "executor": "processes", "num_workers": 2, "sampler": "random"}
SCRIPT = """
from pathlib import Path
from nas_proxy.study.config import load_config
from nas_proxy.study.console import console_display
from nas_proxy.study.pipeline import run_pipeline
run_pipeline(load_config(Path('c.yaml')), console_display(), last='search')
"""
IN_PYTHON = f"""
{SPACE}{NETWORK}
import nas_proxy as nas
study = nas.Study(
    "s", space=Own(), data={{"name": "digits", "images_per_class": 20}},
    distill={{"name": "random_subset", "images_per_class": 2}},
    train={{"num_steps": 3, "batch_size": 8, "learning_rate": 0.02, "precision": "float32",
           "channels_last": False}},
    score={{"signals": ["val_loss"]}}, search={IN_PROCESSES!r}, tracking={{"enabled": False}},
)
study.run(last="search")
"""
RUNPY = "runpy.run_path('script.py', run_name='__main__')"
WAYS = {
    "script": (("script.py",), {"script.py": SCRIPT}),
    "own space": (("script.py",), {"script.py": IN_PYTHON}),
    "pipe": (("-",), {}),
    "-c": (("-c", SCRIPT), {}),
    "exec": (("run.py",), {"script.py": IN_PYTHON, "run.py": "exec(open('script.py').read())"}),
    "runpy": (
        ("run.py",),
        {"script.py": SCRIPT, "run.py": f"import runpy\n{RUNPY}"},
    ),
    "package": (("-m", "mine"), {"mine/__init__.py": "", "mine/__main__.py": SCRIPT}),
    "module of a package": (("-m", "mine.run"), {"mine/__init__.py": "", "mine/run.py": IN_PYTHON}),
    "imported": (("-c", "import script"), {"script.py": SCRIPT}),
}  # fmt: skip


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", WAYS)
def test_a_study_in_processes_runs_from_everywhere(tmp_path, way):
    words, files = WAYS[way]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    write_config(tmp_path, search=IN_PROCESSES)
    done = python(*words, cwd=tmp_path, text=SCRIPT if way == "pipe" else "")
    said = done.stdout + done.stderr
    assert (done.returncode, "2 architectures, 0 failed" in said) == (0, True), said[-2000:]
    assert said.count("stage 1 of 2") == 1
    assert "Traceback" not in said


@pytest.mark.exhaustive
def test_the_case_as_it_is_written(case):
    """Its script asks for names of an earlier release, which are elsewhere now."""
    folder = case("unguarded_script")
    script = (folder / "script.py").read_text()
    for old, new in (
        ("nas_proxy.cli import", "nas_proxy.study.console import"),
        ("nas_proxy.config", "nas_proxy.study.config"),
        ("nas_proxy.pipeline", "nas_proxy.study.pipeline"),
    ):
        script = script.replace(old, new)
    (folder / "script.py").write_text(script)
    for words, text in ((("script.py",), ""), (("-",), script)):
        done = python(*words, cwd=folder, text=text)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "Traceback" not in done.stderr
