"""The tables that the public challenges of the field take."""

import csv

from lensstudy.commands import _write_submission


def test_a_submission_has_a_name_and_a_value_for_each_image(tmp_path, capsys):
    rows = [("set.h5:images/strong_lens_007", 0.75), ("a/b/L1.fits", 0.25), ("bad.fits", None)]
    for name, header, values in (
        ("sub", ["ID", "has_substructure"], ["True", "False"]),
        ("lens", ["ID", "is_lens"], ["0.7500", "0.2500"]),
    ):
        _write_submission(tmp_path / "table.csv", name, rows)
        with open(tmp_path / "table.csv", newline="") as file:
            table = list(csv.reader(file))
        assert table == [header, ["strong_lens_007", values[0]], ["L1", values[1]]]
        assert "2 rows; 1 rejected images have none" in capsys.readouterr().out
