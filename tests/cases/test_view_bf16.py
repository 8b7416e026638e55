"""Networks that do not suit every precision and layout are trained where they can be.

The contract checks are in `tests/contracts/test_broken_plugins.py`, and what a user sees of them in
`tests/cli/test_new_and_check.py`.
"""

import pytest

from tests.cases.helpers import NETWORK, SPACE, assert_one_sentence, python, write_config

# What breaks where: each is the end of `forward`, before which `x` is `(n, width, 8, 8)`.
TRAPS = {
    "view": ("channels_last", "x = x.view(len(x), -1).view(x.shape)"),
    "dtype": ("bfloat16", "held = torch.zeros_like(x, dtype=torch.float32); held[:] = x; "
              "held.index_put_((torch.zeros(1, dtype=torch.long),), x[:1]); x = held"),
    # What autocast computes in float32 anyway.
    "fft": ("nothing", "x = torch.fft.fft2(x).real"),
    "svd": ("nothing", "x = torch.linalg.svd(x.flatten(1))[0][:, :1, None, None] * x"),
    "numpy": ("bfloat16", "x.detach().numpy()"),
}  # fmt: skip
FAILING = [trap for trap, (wrong, _) in TRAPS.items() if wrong != "nothing"]


def write_space(folder, trap):
    line = TRAPS[trap][1]
    last = "        return self.last("
    text = NETWORK.replace(
        f"{last}self.conv(x).mean((2, 3)))",
        f"        x = self.conv(x)\n        {line}\n{last}x.mean((2, 3)))",
    )
    assert line in text
    (folder / "space.py").write_text(SPACE + text)


def trained(**options):
    return {"num_steps": 3, "batch_size": 8, "learning_rate": 0.02, **options}


@pytest.mark.parametrize(
    "trap", [pytest.param(t, marks=[] if t == "view" else pytest.mark.exhaustive) for t in TRAPS]
)
def test_a_search_trains_it_where_it_can(nas_proxy, tmp_path, trap):
    write_space(tmp_path, trap)
    write_config(tmp_path, space={"name": "space.py:Own"}, train=trained())
    outcome = nas_proxy("search", "c.yaml")
    assert outcome.status == 0, outcome.errors
    assert "2 architectures, 0 failed" in outcome.errors
    chosen = outcome.errors.partition("precision: float32")[2]
    assert chosen.startswith(", channels first") or trap != "view"


@pytest.mark.parametrize("trap", [pytest.param(t, marks=pytest.mark.exhaustive) for t in FAILING])
def test_what_is_asked_for_and_cannot_be_is_said_with_the_option(nas_proxy, tmp_path, trap):
    write_space(tmp_path, trap)
    wrong = {"channels_last": True} if TRAPS[trap][0] == "channels_last" else {}
    train = trained(**{"precision": "bfloat16", **wrong})
    write_config(tmp_path, space={"name": "space.py:Own"}, train=train)
    option = "train.channels_last" if wrong else "train.precision"
    assert_one_sentence(nas_proxy("search", "c.yaml"), option)


@pytest.mark.exhaustive
def test_the_case_as_it_is_written(case, nas_proxy):
    folder = case("view_bf16")
    checked = python("check.py", cwd=folder)
    assert "cannot be trained in bfloat16 with channels-last images" in checked.stderr
    for words in ((), ("study_name=f", "train.precision=float32")):
        outcome = nas_proxy("search", "c.yaml", *words)
        assert (outcome.status, "2 architectures, 0 failed" in outcome.errors) == (0, True)
