"""Labels: the class of an image by its place, its name or a table, whatever the classes are called."""

import pytest

from lensstudy.data.dataset import DataError
from lensstudy.data.labels import class_of, class_order, classes_of, lenses, of_place, of_table, part_of


def texts(names, **options):
    return {name: label.text for name, label in of_place(names, "set", **options).items()}


@pytest.mark.parametrize(
    "name", ["no_lens", "nolens", "non_lenses", "No-Lens", "NON LENS", "nonlenses", "Unlensed", "non-lensed"]
)
def test_spellings_of_one_class(name):
    assert class_of(name) == "nonlens" and class_of("lensed") == "lens"


def test_a_name_of_ones_own_is_a_class_and_a_slip_is_not():
    assert class_of("my class 7") == "my class 7" and class_of("кольцо") == "кольцо"
    with pytest.raises(DataError, match="'subhlo' is unknown. Did you mean 'subhalo'.*--classes"):
        class_of("subhlo")
    assert class_of("subhlo", classes=["no_sub", "subhlo"]) == "subhlo"
    for wrong in ("", "a\x1b[2J", "x" * 81):
        with pytest.raises(DataError, match="printable"):
            class_of(wrong)


def test_a_no_beside_a_yes_is_no_smooth_lens():
    assert classes_of(["no", "yes"]) == {"no": "no", "yes": "yes"} and classes_of(["No", "YES"]) == {
        "No": "no",
        "YES": "yes",
    }
    assert classes_of(["no", "sphere", "vort"]) == {"no": "no_sub", "sphere": "cdm", "vort": "axion"}
    assert class_of("no", classes=["no", "yes"]) == "no" and class_of("no", classes=["no", "cdm"]) == "no_sub"
    assert texts(["yes/1.npy", "no/1.npy"]) == {"yes/1.npy": "yes", "no/1.npy": "no"}
    assert texts(["yes_1.npy", "no_1.npy"]) == {"yes_1.npy": "yes", "no_1.npy": "no"}


def test_the_smooth_class_is_first_and_numbers_are_in_order():
    assert class_order({"cdm", "no_sub", "mine", "wdm"}) == ("no_sub", "cdm", "wdm", "mine")
    assert class_order({"10", "9", "1"}) == ("1", "9", "10")
    assert class_order({"cdm", "no_sub"}, ["sphere", "smooth"]) == ("cdm", "no_sub")
    with pytest.raises(DataError, match=r"lacks \['cdm'\]"):
        class_order({"cdm", "no_sub"}, ["no_sub"])


@pytest.mark.parametrize(
    "folder, part, rest",
    [
        ("train", "train", ""),
        ("train_lenses", "train", "lenses"),
        ("test_set", "test", "set"),
        ("Model_III_test", "test", "Model_III"),
        ("contest", None, "contest"),
        ("Validation", "validation", ""),
    ],
)
def test_parts_in_the_names_of_folders(folder, part, rest):
    assert part_of(folder) == (part, rest)


@pytest.mark.parametrize(
    "pattern",
    [
        "{}/x{}.npy",
        "{}/batch_1/x{}.npy",
        "data/{}/images/x{}.npy",
        "train/{}/x{}.npy",
        "{}/train/x{}.npy",
        "Model_III_test/{}/batch_0/x{}.npy",
    ],
)
@pytest.mark.parametrize("classes", [("cdm", "no_sub"), ("wdm", "sidm"), ("0", "1"), ("spiral", "round one")])
def test_the_level_that_tells_the_files_apart_names_the_class(pattern, classes):
    names = {pattern.format(name, i): name for name in classes for i in range(5)}
    assert texts(names) == names


def test_two_levels_that_could_be_classes_are_refused_until_they_are_named():
    names = {
        f"{name}/{group}/{i}.npy": name for name in ("spiral", "round") for group in ("ab", "cd") for i in range(3)
    }
    with pytest.raises(DataError, match="several levels.*--classes"):
        texts(names)
    assert texts(names, classes=["round", "spiral"]) == names


def test_a_folder_for_each_lens_is_no_class():
    with pytest.raises(DataError, match="names no class"):
        texts([f"J{i}/data.fits" for i in range(6)])


def test_folders_of_runs_are_no_classes():
    assert set(texts([f"{c}/run_{r}/0.npy" for c in ("spiral", "ring") for r in (1, 2)]).values()) == {"spiral", "ring"}


def test_a_file_beside_the_class_folders_is_refused():
    with pytest.raises(DataError, match="'stray.npy' lies beside"):
        texts(["cdm/0.npy", "no_sub/0.npy", "stray.npy"])


@pytest.mark.parametrize("name", ["axion_sim_12", "0007_axion", "sim-axion-3", "img_vort_1"])
def test_files_named_after_their_class(name):
    assert {class_of(text) for text in texts([f"{name}.npy", "no_sub_1.npy"]).values()} == {"axion", "no_sub"}


def test_bands_of_one_lens_belong_together_and_letters_do_not():
    bands = [f"lens/L{i}_{band}.fits" for i in range(3) for band in "gri"]
    found = lenses(bands)
    assert len(set(found.values())) == 3 and found["lens/L0_g.fits"] == found["lens/L0_r.fits"]
    assert len(set(lenses([f"Band{b}/{i}.fits" for b in range(1, 5) for i in range(7)]).values())) == 7
    assert len(set(lenses([f"J{i}_F{b}W.fits" for i in range(2) for b in (555, 814)]).values())) == 2
    assert lenses([f"lens_{i}.npy" for i in range(9)]) == {}


@pytest.mark.parametrize(
    "pattern, bands",
    [
        ("EUCL_{}_{{}}.fits", ("VIS", "NIR-Y", "NIR_J", "nir-h")),
        ("band_{}/{{}}.npy", "griz"),
        ("{}-band/lens/{{}}.npy", "griz"),
        ("{0}/EUC_{0}-{{}}.fits", ("Band1", "Band2")),
        ("{{}}_band_{}.npy", "gri"),
    ],
)
def test_a_band_is_known_however_it_is_written(pattern, bands):
    found = lenses([pattern.format(band).format(i) for band in bands for i in range(1, 5)])
    assert len(found) == 4 * len(bands) and len(set(found.values())) == 4


def test_a_table_of_labels(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("object_id, Class\na/0,cdm\n1.npy,no_sub\n7,cdm\n")
    found, unused = of_table(table, ["a/0.npy", "b/1.npy", "c/2.npy"])
    assert {name: label.text for name, label in found.items()} == {"a/0.npy": "cdm", "b/1.npy": "no_sub"}
    assert unused == 1
    table.write_text("who;what\n0;cdm\n")
    assert of_table(table, ["a/0.npy"], ("who", "what"))[0]["a/0.npy"].text == "cdm"
    for content, names, message in [
        ("who,what\n0,cdm\n", ["0.npy"], "none is called one of name, file.*--label-columns"),
        ("name,label\n0,cdm\n", ["a/0.npy", "b/0.npy"], "'0' stands for a/0.npy and b/0.npy"),
        ("name,label\n0,cdm\n0,axion\n", ["0.npy"], "'0' is labelled 'cdm' and 'axion'"),
        ("name,label\n5,cdm\n", ["0.npy"], "none of its 1 rows names an image"),
    ]:
        table.write_text(content)
        with pytest.raises(DataError, match=message):
            of_table(table, names)
    with pytest.raises(DataError, match="no table of labels"):
        of_table(tmp_path / "nowhere.csv", ["0.npy"])


def test_a_table_that_excel_wrote_is_read(tmp_path):
    (tmp_path / "labels.csv").write_text("id,label\na,ring\nb,arc\n", encoding="utf-8-sig")
    found, unused = of_table(tmp_path / "labels.csv", ["a.npy", "b.npy"])
    assert {name: label.text for name, label in found.items()} == {"a.npy": "ring", "b.npy": "arc"} and unused == 0


def test_a_table_says_the_parts_and_whether_it_is_a_lens(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("file,is_lens,Split\na.npy,0,train\nb.npy,1,Val\ntrain/c.npy,True,test\nd.npy,False,\n")
    labels, _ = of_table(table, ["a.npy", "b.npy", "train/c.npy", "test/d.npy"])
    found = {name: (label.text, label.part) for name, label in labels.items()}
    assert found == {
        "a.npy": ("nonlens", "train"),
        "b.npy": ("lens", "validation"),
        "train/c.npy": ("lens", "test"),
        "test/d.npy": ("nonlens", "test"),
    }
    table.write_text("file,label,split\na.npy,cdm,3\n")
    assert of_table(table, ["a.npy"])[0]["a.npy"].part is None
    table.write_text("file,label,split\na.npy,cdm,train\na.npy,cdm,test\n")
    with pytest.raises(DataError, match="'a.npy' is in the parts 'train' and 'test'"):
        of_table(table, ["a.npy"])
