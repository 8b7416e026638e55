"""The command line as tests call it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nas_proxy.cli.main import main


@dataclass(frozen=True)
class Outcome:
    status: int
    output: str
    errors: str


def command_line(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line in this process, in the folder that it is in."""

    def run(*words: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run
