"""Choices as text: every value comes back as what it was."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.define_by_run.notation import read_choices, write_choices

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(st.text(), st.integers(), NUMBERS, st.booleans(), st.none())


@settings(max_examples=40)
@given(st.dictionaries(st.text(), VALUES, min_size=1))
def test_whatever_is_written_is_read_again(choices):
    for separator in (",", ", "):
        text = write_choices(choices, separator=separator)
        found = read_choices(text)
        assert list(found.items()) == list(choices.items())
        assert [type(each) for each in found.values()] == [type(e) for e in choices.values()]
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("32", 32), ("-3", -3), ("+3", 3), ("1e-05", 1e-5), ("0.5", 0.5), ("True", True),
        ("None", None), ("relu", "relu"), ("conv_3x3", "conv_3x3"), ('"32"', "32"), ('""', ""),
        ('"a,b=c"', "a,b=c"), ("true", "true"), ("a-b.c", "a-b.c"),
    ],
)  # fmt: skip
def test_values_are_written_as_python_and_json_write_them(text, value):
    (found,) = read_choices(f"x={text}").values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "x", "x=", "=3", "x=3,", "x=3;y=4", "x=3 4", 'x="a', "x=[3]", "x=3,,y=4"),
        *("x==3", "x=1_000", "x=.5", "x=4?"),
    ],
)
def test_what_is_of_another_form_is_refused_with_the_place(text):
    with pytest.raises(ValueError, match="is not of the form width=32,depth=4: at "):
        read_choices(text)


def test_a_name_stands_once():
    with pytest.raises(ValueError, match="names 'x' twice"):
        read_choices("x=1,y=2,x=1")


def test_numbers_keep_all_their_digits():
    value = math.nextafter(0.1, 1)
    assert read_choices(write_choices({"x": value})) == {"x": value}
