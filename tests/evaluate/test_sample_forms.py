"""Architectures that had a part in what is judged bar every genotype of their networks."""

import pytest

from nas_proxy.errors import StudyError
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.types import Architecture

SPACE = NASBench201Space()


def cell(*operations):
    return Architecture(SPACE.name, list(operations))


def some(num, seed, **options):
    return draw_architectures(SPACE, num, make_generator(seed), **options)


def forms(architectures):
    return {SPACE.canonical_form(architecture) for architecture in architectures}


@pytest.mark.parametrize("with_table", [False, True])
def test_no_other_genotype_of_an_excluded_network_is_drawn(with_table):
    known = some(60, 0)
    among = some(1500, 1) if with_table else None
    drawn = some(400, 2, among=among, excluded=known)
    assert not forms(drawn) & forms(known)
    # By genotype alone some would have been drawn.
    careless = {a for a in some(400, 2, among=among) if a not in known}
    assert forms(careless) & forms(known)


def test_a_table_that_holds_nothing_else_is_refused_in_one_sentence():
    direct = cell("none", "none", "none", "skip_connect", "none", "none")
    around = cell("skip_connect", "none", "none", "none", "skip_connect", "none")
    free = cell("none", "none", "none", "nor_conv_3x3", "none", "none")
    assert some(1, 0, among=[around, free], excluded=[direct]) == [free]
    with pytest.raises(StudyError, match="2 different architectures") as raised:
        some(2, 0, among=[around, free], excluded=[direct])
    assert "only 1 could be drawn from the truth table" in str(raised.value)
    assert "every other genotype of their networks" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
