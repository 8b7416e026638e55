import csv
import math

import pytest

from nas_proxy.errors import DataError, UserError
from nas_proxy.evaluate.table import TruthTable, read_table
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.types import Architecture, Status

SPACE = ConvNetSpace()
NAMES = [
    "ConvNet-W32-D1-NN-AS-PN",
    "ConvNet-W64-D2-NBN-AR-PM",
    "ConvNet-W128-D3-NIN-AR-PA",
    "ConvNet-W256-D4-NGN-AL-PA",
]
HEADER = "architecture,val_accuracy,test_accuracy\n"
ROWS = "".join(f"{name},{0.1 * n},{0.9 - 0.1 * n}\n" for n, name in enumerate(NAMES))


def read(tmp_path, content, value="test_accuracy", architecture="architecture", space=SPACE):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, space, architecture, value)


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["val_accuracy", "test_accuracy"])
def test_values_are_those_of_the_csv_module(tmp_path, value):
    table = read(tmp_path, HEADER + ROWS, value)
    with (tmp_path / "table.csv").open(newline="") as file:
        expected = [
            (SPACE.from_string(row["architecture"]), float(row[value]))
            for row in csv.DictReader(file)
        ]
    assert list(table.values.items()) == expected
    assert len(expected) == 4
    assert table.value_name == value


def test_order_of_columns_quotes_and_line_ends_do_not_matter(tmp_path):
    lines = ['"0.5","x, y","ConvNet-W32-D1-NN-AS-PN"', '6e-1,"z","ConvNet-W32-D2-NN-AS-PN"']
    table = read(tmp_path, "test_accuracy,note,architecture\r\n" + "\r\n".join(lines))
    assert list(table.values.values()) == [0.5, 0.6]
    assert [SPACE.to_string(a) for a in table.values] == [line[-24:-1] for line in lines]


def test_byte_order_mark_of_a_spreadsheet_is_no_part_of_the_first_column(tmp_path):
    assert len(read(tmp_path, b"\xef\xbb\xbf" + (HEADER + ROWS).encode()).values) == 4


@pytest.mark.parametrize("empty", ["", " "])
def test_empty_cells_are_left_out(tmp_path, empty):
    row = f"ConvNet-W32-D3-NN-AS-PN,0.5,{empty}\n"
    table = read(tmp_path, HEADER + row + ROWS)
    assert len(table.values) == 4
    assert SPACE.from_string("ConvNet-W32-D3-NN-AS-PN") not in table.values
    assert len(read(tmp_path, HEADER + row + ROWS, "val_accuracy").values) == 5


def test_short_rows_and_foreign_architectures_are_left_out(tmp_path):
    foreign = "|nor_conv_3x3~0|,0.5,0.5\nConvNet-W512-D3-NN-AS-PN,0.5,0.5\n"
    table = read(tmp_path, HEADER + foreign + ROWS + "ConvNet-W32-D3-NN-AS-PN\n")
    assert [SPACE.to_string(a) for a in table.values] == NAMES


# --- what is left out is said -----------------------------------------------------------------


def test_a_whole_table_has_nothing_to_say(tmp_path):
    table = read(tmp_path, HEADER + ROWS + ROWS)  # what stands there twice agrees
    assert table.notices == ()
    assert table.name == "test_accuracy of table.csv"


def test_rows_that_are_not_understood_are_counted_with_the_first_as_example(tmp_path):
    table = read(tmp_path, HEADER + ROWS + "w32,1,1\nConvNet-W512,1,1\n,1,1\n")
    (notice,) = table.notices
    assert notice.startswith(f"3 of 7 rows of the truth table {tmp_path / 'table.csv'} left out")
    assert (
        "the space 'convnet' does not know the architecture; the first, in line 6: 'w32'" in notice
    )
    assert table.name == "test_accuracy of table.csv (4 of 7 rows)"


def test_rows_without_a_value_are_counted(tmp_path):
    (notice,) = read(tmp_path, HEADER + "ConvNet-W32-D3-NN-AS-PN,1, \n" + ROWS).notices
    assert "1 of 5 rows" in notice
    assert notice.endswith(
        "there is no value in 'test_accuracy'; the first, in line 2: ConvNet-W32-D3-NN-AS-PN"
    )


def test_another_value_of_the_same_architecture_is_said_and_counts(tmp_path):
    table = read(tmp_path, HEADER + ROWS + f"{NAMES[0]},0,0.25\n{NAMES[1]},9,0.8\n")
    assert table.values[SPACE.from_string(NAMES[0])] == 0.25
    (notice,) = table.notices
    assert "1 of 6 rows" in notice
    assert notice.endswith(f"the last counts; the first, in line 6: {NAMES[0]} has 0.25 after 0.9")
    assert table.name == "test_accuracy of table.csv"


# --- what is refused --------------------------------------------------------------------------


def test_missing_file(tmp_path):
    path = tmp_path / "no.csv"
    with pytest.raises(DataError, match=rf"{path} \(validate.reference.table\) does not exist"):
        read_table(path, SPACE, "architecture", "test_accuracy")
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path, SPACE, "architecture", "test_accuracy")  # a folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"value": "test_acuracy"},
            r"no column 'test_acuracy' \(validate.reference.value\); did you mean 'test_accuracy'",
        ),
        (
            {"architecture": "arch"},
            r"no column 'arch' \(validate.reference.architecture\); known: architecture, test_",
        ),
    ],
)
def test_missing_column_names_the_nearest(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, HEADER + ROWS, **options)


def test_the_option_that_names_the_column_is_named(tmp_path):
    (tmp_path / "reference.value.csv").write_text(HEADER + ROWS)
    path = tmp_path / "reference.value.csv"
    options = {"section": "calibrate", "value_option": "second_value"}
    with pytest.raises(DataError) as caught:
        read_table(path, SPACE, "architecture", "other", **options)
    assert "no column 'other' (calibrate.reference.second_value)" in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(DataError, match=r"'arch' \(calibrate.reference.architecture\)"):
        read_table(path, SPACE, "arch", "test_accuracy", **options)


def test_more_cells_than_columns_are_no_decimal_comma(tmp_path):
    with pytest.raises(DataError, match=r"table.csv, line 6, has more cells than there are col"):
        read(tmp_path, HEADER + ROWS + f"{NAMES[0]},0,0,5\n")
    assert len(read(tmp_path, HEADER + ROWS.replace("\n", ",,\n")).values) == 4  # all empty


def test_empty_file_has_no_columns(tmp_path):
    with pytest.raises(DataError, match="no column 'architecture' .*there is none"):
        read(tmp_path, "")


@pytest.mark.parametrize("text", ["high", "nan", "inf", "-inf", "1e999", "0,5"])
def test_what_is_not_a_finite_number_is_refused_with_its_line(tmp_path, text):
    # A quoted line break and an empty line: lines are not rows.
    rows = f'"two\nlines",0,0\n\nConvNet-W32-D3-NN-AS-PN,0,"{text}"\n'
    with pytest.raises(DataError) as caught:
        read(tmp_path, HEADER + rows)
    expected = f"table.csv, line 5: 'test_accuracy' is not a finite number: {text!r}"
    assert str(caught.value).endswith(expected)


def test_numbers_in_other_columns_are_not_looked_at(tmp_path):
    assert len(read(tmp_path, HEADER + ROWS + "ConvNet-W32-D3-NN-AS-PN,?,0.5\n").values) == 5


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [
        ("", "0 rows, 0 not understood"),
        ("a1,0.5,0.5\nb2,0.5,0.5\n", "2 rows, 2 not understood; the first: 'a1' is no ConvNet"),
        ("ConvNet-W32-D3-NN-AS-PN,0.5,\n", "1 rows, 0 not understood"),
    ],
)
def test_table_without_any_architecture_of_the_space(tmp_path, rows, numbers):
    with pytest.raises(DataError) as caught:
        read(tmp_path, HEADER + rows)
    message = str(caught.value)
    assert "no architecture of the space 'convnet' with a value in 'test_accuracy'" in message
    assert numbers in message


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\x00", b"\x00" * 300, b"\xff\xfea\x00"])
def test_binary_file(tmp_path, content):
    with pytest.raises(DataError, match=r"table.csv"):
        read(tmp_path, content)


def test_field_longer_than_the_csv_module_reads(tmp_path):
    with pytest.raises(DataError, match="not a readable CSV file: field larger"):
        read(tmp_path, HEADER + "x" * (csv.field_size_limit() + 1))


def test_space_without_a_string_form(tmp_path):
    class Mute(ConvNetSpace):
        name = "mute"

        def from_string(self, text):
            return super(ConvNetSpace, self).from_string(text)

    with pytest.raises(UserError, match="'mute' has no string form"):
        read(tmp_path, HEADER + ROWS, space=Mute())


# --- looking up -------------------------------------------------------------------------------


def test_evaluation_of_a_row_and_of_what_the_table_lacks(tmp_path):
    table = read(tmp_path, HEADER + ROWS)
    known = table.evaluate(SPACE.from_string(NAMES[1]), seed=7)
    assert known.complete
    assert known.seed == 7
    assert dict(known.signals) == {"test_accuracy": 0.8}
    absent = table.evaluate(SPACE.from_string("ConvNet-W32-D3-NN-AS-PN"), seed=7)
    assert absent.status is Status.FAILED
    assert absent.reason == "not in the truth table"
    assert dict(absent.signals) == {}
    assert known.fidelity == absent.fidelity == table.fidelity


def test_an_accuracy_of_zero_is_a_value():
    architecture = Architecture("s", 0)
    evaluation = TruthTable({architecture: 0.0}, "test_accuracy").evaluate(architecture, 0)
    assert evaluation.complete
    assert math.copysign(1, evaluation.signals["test_accuracy"]) == 1


def test_a_cell_of_zero_is_not_empty(tmp_path):
    table = read(tmp_path, HEADER + f"{NAMES[0]},1,0\n")
    assert list(table.values.values()) == [0.0]
