"""The tables of the pages are what the committed results say, and their benchmarks exist."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "docs/trust.md", "results/README.md")
PAGES = {name: (ROOT / name).read_text() for name in NAMES}
README = PAGES["README.md"]
ALL = "".join(PAGES.values())


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import tables

    yield tables
    del sys.modules["tables"]


@pytest.mark.parametrize(
    ("name", "least"), [("README.md", 5), ("docs/trust.md", 1), ("results/README.md", 1)]
)
def test_each_table_is_what_its_results_say(name, least, tables):
    page = PAGES[name]
    assert name in tables.PAGES
    assert page.count("<!-- table: ") == page.count("<!-- /table -->") >= least
    assert tables.with_tables(page) == page


def test_so_are_those_of_the_page_about_trust(tables):
    page = (ROOT / "docs" / "trust.md").read_text()
    assert page.count("<!-- table: ") == page.count("<!-- /table -->") >= 1
    assert tables.with_tables(page) == page


def test_a_changed_figure_would_be_found(tables):
    table = README[README.index("<!-- table: ") :].partition("<!-- /table -->")[0]
    first_row = table.splitlines()[3]
    assert tables.with_tables(README.replace(first_row, first_row + " 99.9 |")) == README


@pytest.mark.parametrize("named", sorted(set(re.findall(r"benchmarks/\w+\.py", ALL))))
def test_a_benchmark_that_is_named_exists(named):
    assert (ROOT / named).is_file()


@pytest.mark.parametrize("named", sorted(set(re.findall(r"results/benchmarks/\w+\.json", ALL))))
def test_results_that_are_named_exist(named):
    assert (ROOT / named).is_file()
