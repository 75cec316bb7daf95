import math

import pytest

from saat.errors import (
    ArgumentError,
    CheckpointError,
    DataError,
    SaatError,
    check_at_least,
    check_choice,
    check_code_length,
    check_folder,
    check_fraction,
)


@pytest.mark.parametrize(
    ("value", "ending"),
    [
        (8.0, r"got 8\.0 \(did you mean 8/255\?\)"),
        (0.5 + 1, r"got 1\.5 \(did you mean 1\.5/255\?\)"),
        (-0.1, r"got -0\.1"),
        (256.0, r"got 256\.0"),
        (math.nan, "got nan"),
        (math.inf, "got inf"),
    ],
)
def test_a_fraction_lies_in_the_pixel_range(value, ending):
    with pytest.raises(ArgumentError, match=rf"^`epsilon` is a fraction of the pixel range \[0, 1\]; {ending}$"):
        check_fraction("epsilon", value)
    assert [check_fraction("epsilon", good) for good in (0.0, 8 / 255, 1.0)] == [0.0, 8 / 255, 1.0]


def test_an_unknown_name_lists_all_and_the_near_ones():
    with pytest.raises(ArgumentError, match=r"^`loss` is one of csq, dph; got 'dhp'; did you mean 'dph'\?$"):
        check_choice("loss", "dhp", ["dph", "csq"])
    with pytest.raises(ArgumentError, match=r"^`loss` is one of csq, dph; got 'triplet'$"):
        check_choice("loss", "triplet", ["dph", "csq"])
    assert check_choice("loss", "csq", {"csq": 1}) == "csq"


@pytest.mark.parametrize(
    ("value", "hint"),
    [(50, "the nearest are 48 and 56"), (9, "the nearest are 8 and 16"), (5, "the smallest is 8"), (0, "8"), (-8, "8")],
)
def test_a_code_length_is_a_multiple_of_eight(value, hint):
    with pytest.raises(ArgumentError, match=rf"got {value} \(.*{hint}\)$"):
        check_code_length(value)
    assert check_code_length(48) == 48


def test_a_minimum_holds_for_numbers_only():
    check_at_least("steps", 1, 1)
    for value in (0, math.nan):
        with pytest.raises(ArgumentError, match=f"^`steps` is at least 1; got {value}$"):
            check_at_least("steps", value, 1)


def test_a_folder_exists(tmp_path):
    assert check_folder("root", tmp_path) == tmp_path
    with pytest.raises(DataError, match="`root` is an existing folder; found nothing at"):
        check_folder("root", tmp_path / "no")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="found a file at"):
        check_folder("root", tmp_path / "file")


def test_all_errors_are_for_people():
    assert all(issubclass(error, SaatError) for error in (ArgumentError, DataError, CheckpointError))
    assert issubclass(ArgumentError, ValueError)
