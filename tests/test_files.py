import pytest

from lensstudy.files import whole_file
from lensstudy.text import nearest


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "table.csv"
    with whole_file(path) as partial:
        partial.write_text("old")
        assert partial.suffix == ".csv" and not path.exists()
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("half of a n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_before_anything_is_written_is_that_error(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "table.csv"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_the_nearest_name():
    assert nearest("epoch", ("epochs", "width")) == "epochs"
    assert nearest("zzz", ("epochs", "width")) == ""
