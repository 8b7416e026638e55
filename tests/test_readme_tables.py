"""The tables of the pages are what the committed results say, and their benchmarks exist."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAST = {  # tables on each page
    "README.md": 1,
    "docs/results.md": 4,
    "docs/transfer_learning.md": 1,
    "docs/trust.md": 2,
    "results/README.md": 1,
}
PAGES = {name: (ROOT / name).read_text() for name in LEAST}
RESULTS = PAGES["docs/results.md"]
ALL = "".join(PAGES.values())


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import tables

    yield tables
    del sys.modules["tables"]


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_each_table_is_what_its_results_say(name, least, tables):
    page = PAGES[name]
    assert name in tables.PAGES
    assert page.count("<!-- table: ") == page.count("<!-- /table -->") >= least
    assert tables.with_tables(page) == page


def test_a_changed_figure_would_be_found(tables):
    table = RESULTS[RESULTS.index("<!-- table: ") :].partition("<!-- /table -->")[0]
    first_row = table.splitlines()[3]
    assert tables.with_tables(RESULTS.replace(first_row, first_row + " 99.9 |")) == RESULTS


def test_every_table_of_the_pages_is_tested():
    marked = [
        path
        for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
        if "_build" not in path.parts
    ]
    found = {str(path.relative_to(ROOT)) for path in marked if "<!-- table: " in path.read_text()}
    assert found <= LEAST.keys()


@pytest.mark.parametrize("named", sorted(set(re.findall(r"benchmarks/\w+\.py", ALL))))
def test_a_benchmark_that_is_named_exists(named):
    assert (ROOT / named).is_file()


@pytest.mark.parametrize("named", sorted(set(re.findall(r"results/benchmarks/\w+\.json", ALL))))
def test_results_that_are_named_exist(named):
    assert (ROOT / named).is_file()
