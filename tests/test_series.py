"""A series stands for one study a combination of values, each whole and with a name of its own."""

import pytest
from typer.testing import CliRunner

from lensstudy import cli
from lensstudy.series import members
from lensstudy.study import ParameterError, Study

NOISE = """\
noise_level: 0.02
learning_rate: 0.01
settings: {resnet18: {learning_rate: 0.001, batch_size: 16}}
series: {noise_level: [0.01, 0.03], networks: [[resnet18], [plain-cnn, resnet18]], learning_rate: [0.002]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    (tmp_path / "noise.yml").write_text(NOISE)
    return tmp_path


def test_a_series_is_one_study_for_each_combination(folder):
    files = members(folder / "noise.yml")
    names = ["noise-0.01-1-0.002", "noise-0.01-2-0.002", "noise-0.03-1-0.002", "noise-0.03-2-0.002"]
    assert files == [folder / "runs" / name / "study.yml" for name in names]
    studies = [Study.read(file) for file in files]
    assert [one.study for one in studies] == names
    assert [one.noise_level for one in studies] == [0.01, 0.01, 0.03, 0.03]
    assert [len(one.networks) for one in studies] == [1, 2, 1, 2]
    # What varies does so for every network; what does not stays as single networks have it.
    assert all(one.training("resnet18").learning_rate == 0.002 for one in studies)
    assert all(one.training("resnet18").batch_size == 16 for one in studies)
    assert members(files[0]) == [files[0]]


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ("{noise_levle: [0.1]}", "'noise_levle' is no parameter that could vary; did you mean 'noise_level'"),
        ("{noise_level: 0.1}", r"expected lists of values"),
        ("[0.1]", "expected lists of values"),
        ("{noise_level: []}", "expected lists of values"),
        ("{epochs: [0, 1]}", "epochs = 0: input should be greater than or equal to 1"),
        ("{epochs: [1, 1]}", "two studies of the series would be called bad-1"),
        ("{study: [a, b]}", "'study' is no parameter that could vary"),
    ],
)
def test_a_slip_in_a_series_is_named(folder, series, message):
    (folder / "bad.yml").write_text(f"series: {series}\n")
    with pytest.raises(ParameterError, match=message):
        members(folder / "bad.yml")


def test_a_study_of_a_series_goes_by_its_name(folder, monkeypatch):
    """Once the series has been run; to ask how far it is writes nothing."""
    monkeypatch.chdir(folder)
    told = CliRunner().invoke(cli.app, ["status", "noise.yml"])
    assert told.exit_code == 1 and "noise-0.03-2-0.002: has not run yet" in told.stderr
    assert "`lensstudy run noise.yml` runs it" in told.stderr and not (folder / "runs").exists()
    log = members(folder / "noise.yml")[1].parent / "logs/run.log"
    log.parent.mkdir()
    log.write_text("")
    for name in ("noise-0.01-2-0.002", "noise.yml"):
        told = CliRunner().invoke(cli.app, ["status", name])
        assert told.exit_code == 0, told.stderr
        assert "noise-0.01-2-0.002: not being run; its last run has begun no job" in told.stdout
    assert "noise-0.03-1-0.002: has not run yet" in told.stdout


def test_who_takes_a_series_for_a_study_is_told(folder):
    with pytest.raises(ParameterError, match=r"is a series of studies over noise_level, .*`lensstudy run .*runs all"):
        Study.read(folder / "noise.yml")
