"""The state of data is its content and place: what was corrected under an old name makes the data set anew, and a study
says what has happened."""

import json
import os
import shutil

import numpy as np
import pytest

from lensstudy import provenance, stages
from lensstudy.provenance import data_state
from lensstudy.study import Study

CLASSES = ("axion", "cdm", "no_sub")
NO_RULES = dict.fromkeys(("saturated", "clipped", "near_duplicate", "off_centre", "signal_to_noise"))


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    return tmp_path


@pytest.fixture
def images(home):
    """A folder with twelve images of each class, one class behind a link, old enough for its hashes to be kept."""
    random, folder = np.random.default_rng(1), home / "set"
    for name in CLASSES:
        place = folder / name if name != "axion" else home / "elsewhere"
        place.mkdir(parents=True)
        for i in range(12):
            np.save(place / f"{i}.npy", random.random((32, 32)).astype(np.float32))
    (folder / "axion").symlink_to(home / "elsewhere")
    for file in [*folder.rglob("*.npy"), *(home / "elsewhere").iterdir()]:
        os.utime(file, ns=(10**18, 10**18))
    return folder


@pytest.fixture
def study(images):
    return Study(study="own", data_path=str(images), filtering=NO_RULES)


def exchange(one, other):
    """As a person does: with a name in between."""
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def moved(folder):
    for i in (3, 7):
        (folder / "cdm" / f"{i}.npy").rename(folder / "no_sub" / f"1{i}.npy")


def exchanged(folder):
    exchange(folder / "cdm" / "1.npy", folder / "no_sub" / "2.npy")


def exchanged_within(folder):
    exchange(folder / "cdm" / "1.npy", folder / "cdm" / "2.npy")


def folders_exchanged(folder):
    exchange(folder / "cdm", folder / "no_sub")


def replaced(folder, file="cdm/1.npy", time=10**18):
    image = np.load(folder / file)
    np.save(folder / file, image[::-1])
    os.utime(folder / file, ns=(time, time))


def replaced_by_an_older_one(folder):
    replaced(folder, time=10**17)


def replaced_in_place_by_a_copy(folder):
    """`cp -p` keeps the time of the file that is copied."""
    np.save(folder.parent / "new.npy", np.zeros((32, 32), np.float32))
    os.utime(folder.parent / "new.npy", ns=(10**18, 10**18))
    shutil.copy2(folder.parent / "new.npy", folder / "no_sub" / "4.npy")
    (folder.parent / "new.npy").unlink()


def behind_a_link(folder):
    replaced(folder, "axion/5.npy")


def hidden(folder):
    (folder / ".labels.csv").write_text("name,class\n")


def removed(folder):
    (folder / "cdm" / "0.npy").unlink()


HAPPENED = {
    moved: "2 files moved from cdm to no_sub (cdm/3.npy, cdm/7.npy)",
    exchanged: "1 file moved from no_sub to cdm (no_sub/2.npy); 1 file moved from cdm to no_sub (cdm/1.npy)",
    exchanged_within: "2 files renamed in cdm (cdm/2.npy, cdm/1.npy)",
    folders_exchanged: "12 files moved from no_sub to cdm (no_sub/0.npy, no_sub/1.npy, no_sub/10.npy, ...); "
    "12 files moved from cdm to no_sub (cdm/0.npy, cdm/1.npy, cdm/10.npy, ...)",
    replaced: "1 file replaced (cdm/1.npy)",
    replaced_by_an_older_one: "1 file replaced (cdm/1.npy)",
    replaced_in_place_by_a_copy: "1 file replaced (no_sub/4.npy)",
    behind_a_link: "1 file replaced (axion/5.npy)",
    hidden: "1 file added (set/.labels.csv)",
    removed: "1 file removed (cdm/0.npy)",
}


@pytest.mark.parametrize("change", HAPPENED, ids=lambda change: change.__name__)
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "not cached"])
def test_what_happens_to_files_is_seen_and_named(study, images, change, cached, monkeypatch):
    if cached:
        monkeypatch.setattr(provenance, "SETTLED_NS", -(10**12))
    before = data_state(study, "data")
    before.keep()
    assert data_state(study, "data").digest == before.digest and not data_state(study, "data").changes()
    change(images)
    after = data_state(study, "data")
    assert after.digest != before.digest
    assert after.changes() == HAPPENED[change]


def test_exchanging_twice_is_no_change(study, images):
    before = data_state(study, "data").digest
    folders_exchanged(images)
    assert data_state(study, "data").digest != before
    folders_exchanged(images)
    assert data_state(study, "data").digest == before


def test_a_corrected_label_makes_the_data_set_anew(study, images):
    before = stages.dataset(study)
    assert stages.dataset(study).fingerprint == before.fingerprint
    moved(images)
    with pytest.warns(UserWarning, match=r"2 files moved from cdm to no_sub \(cdm/3.npy, cdm/7.npy\)"):
        after = stages.dataset(study)
    counts = after.catalogue["class"].value_counts()
    assert counts["cdm"] == 10 and counts["no_sub"] == 14
    assert stages.dataset(study).fingerprint == after.fingerprint != before.fingerprint


def test_an_unchanged_set_is_not_read_again(study, images, monkeypatch):
    monkeypatch.setattr(provenance, "SETTLED_NS", -(10**12))
    state = data_state(study, "data")
    monkeypatch.setattr(provenance.hashlib, "file_digest", None)  # whoever hashes now fails
    assert data_state(study, "data").digest == state.digest


def test_a_file_that_could_change_within_its_time_stamp_is_read_again(study, images):
    data_state(study, "data")
    cache = study.folder / "files" / "hashes.json"
    assert not cache.exists() or not json.loads(cache.read_text())  # all of them were made a moment ago


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', '{"a": [1, 2, 3, 4, 5]}', "[" * 10**6, "\0\xff"])
def test_a_damaged_cache_is_made_anew(study, images, content, monkeypatch):
    monkeypatch.setattr(provenance, "SETTLED_NS", -(10**12))
    state = data_state(study, "data")
    cache = study.folder / "files" / "hashes.json"
    good = cache.read_text()
    cache.write_text(content, encoding="latin1")
    assert data_state(study, "data").digest == state.digest
    assert json.loads(cache.read_text()) == json.loads(good)


def test_links_that_lead_in_circles_and_pipes_end(study, images):
    (images / "cdm" / "up").symlink_to(images)
    os.mkfifo(images / "cdm" / "pipe.npy")
    (images / "cdm" / "nowhere.npy").symlink_to(images / "missing")
    files = data_state(study, "data").files
    assert len(files) == 3 * 12 + 2
    assert "pipe" in files[f"{images}/cdm/pipe.npy"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_point_spread_function_that_changed_under_its_name_makes_other_images(home, nested):
    file = home / "psf.fits"
    population = {"psf_file": str(file)}
    presets = [{"preset": "realistic", "population": population}, {"preset": "model_1"}]
    study = Study(population={"presets": presets} if nested else population)
    assert not data_state(study, "data").digest
    file.write_bytes(b"one")
    before = data_state(study, "data")
    before.keep()
    assert before.digest == data_state(study, "data").digest != ""
    file.write_bytes(b"two")
    assert data_state(study, "data").digest != before.digest
    assert data_state(study, "data").changes() == f"1 file replaced ({home.name}/psf.fits)"


@pytest.mark.parametrize("name", ["apply_to", "observations_path"])
def test_what_a_network_is_applied_to_counts_with_what_lies_beside_it(home, name):
    for part in ("lens", "noise_map", "other"):
        (home / f"{part}.fits").write_bytes(b"old")
    group = "application" if name == "apply_to" else "observations"
    for path, files in ((home / "lens.fits", 2), (f"{home}/*.fits", 3)):
        study = Study(**{name: str(path)})
        before = data_state(study, group)
        assert len(before.files) == files
        (home / "noise_map.fits").write_bytes(os.urandom(3))
        assert data_state(study, group).digest != before.digest
