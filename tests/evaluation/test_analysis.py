"""An analysis of networks whose answers are known: functions of the light that say what they are made to say."""

import json
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lensstudy.data.preprocess import Preprocess
from lensstudy.data.simulation import simulate
from lensstudy.evaluation.analysis import Analysis
from lensstudy.evaluation.conclusions import on_steps, on_task
from lensstudy.evaluation.explanation import averaged_over_motions, seed_interval
from lensstudy.figures import analysis_tables
from lensstudy.figures.analysis_answer import answer, quantile_interval
from lensstudy.networks.groups import rotate
from lensstudy.study import Study


class Known(torch.nn.Module):
    """Classes by the light in the four middle pixels, which no quarter rotation moves, or by that on the x axis."""

    def __init__(self, group: str):
        super().__init__()
        self.group, self.weight = group, torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        light = images[:, 0, 7:9, 7:9] if self.group else images[:, 0, 7:9]
        score = self.weight * light.flatten(1).sum(1)
        return torch.stack([score, 2 - score], 1) / 4

    def predict(self, images, degrees=0.0):
        degrees = degrees if np.ndim(degrees) == 0 else torch.as_tensor(degrees)
        with torch.no_grad():
            return self(rotate(torch.as_tensor(np.array(images, np.float32)), degrees)).double().softmax(1).numpy()


def trained(network: str, group: str, seed: int, images: int = 76):
    module = Known(group)
    card = {"network": network, "seed": seed, "training_images": images, "learning_rate": 0.01, "epochs": 8}
    return SimpleNamespace(network=module, predict=module.predict, preprocess=Preprocess(16), card=card, folder=None)


@pytest.fixture
def analysed(blobs, tmp_path, monkeypatch):
    """A function of parameters: the analysis of an equivariant and a plain network, and their folders on disk."""
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")

    def analyse(networks=("round", "plain"), seeds=(1,), shares=(100.0,), validation_auc=None):
        study = Study(networks=list(networks), seeds=list(seeds), shares=list(shares), orientations=4)
        group = {"round": "D4", "plain": "", "round-matched": ""}
        runs = {
            share: [trained(name, group[name], seed, int(share)) for name in networks for seed in seeds]
            for share in shares
        }
        validation = blobs.part("validation")
        for run in runs[max(shares)]:
            name, seed = run.card["network"], run.card["seed"]
            folder = study.training_folder(name, seed, max(shares))
            folder.mkdir(parents=True)
            metrics = {"validation_auc": (validation_auc or {}).get(name, 0.9), "validation_loss": 0.5, "seconds": 3.0}
            (folder / "metrics.json").write_text(json.dumps(metrics))
            said = pd.DataFrame(run.predict(validation.images), columns=list(validation.classes))
            said.assign(**{"class": validation.catalogue["class"]}).to_parquet(folder / "predictions.parquet")
        monkeypatch.setattr("lensstudy.evaluation.analysis.multiply_accumulates", lambda network: 5_000_000)
        return Analysis(study, blobs, runs)

    return analyse


def test_scores_are_those_of_scikit_learn_and_rotations_those_of_the_network(analysed):
    analysis = analysed()
    test = analysis.test
    for run in analysis.trained:
        name, said = run.card["network"], run.predict(test.images)
        assert analysis.unperturbed["auc"][name] == pytest.approx(roc_auc_score(test.labels, said[:, 1]))
        moved = run.predict(np.rot90(test.images, axes=(2, 3)))
        assert analysis.changes_at_90[name] == pytest.approx(np.abs(moved - said).max(), abs=1e-6)
        each = [run.predict(np.rot90(test.images, k, axes=(2, 3))) for k in range(4)]
        spread = np.max(each, axis=0) - np.min(each, axis=0)
        assert analysis.rotation_consistency[name] == pytest.approx(np.quantile(spread.max(1), 0.95), abs=1e-6)
    assert analysis.changes_at_90["round"] < 1e-6 < 0.01 < analysis.changes_at_90["plain"]
    assert analysis.scores["network"].tolist() == ["round"] * 3 + ["plain"] * 3 + ["(ring moments)", "(total flux)"]


def test_mistakes_are_the_wrong_answers_the_surest_first(analysed):
    analysis = analysed()
    for run in analysis.trained:
        said = run.predict(analysis.test.images)
        wrong = [i for i in range(len(said)) if said[i].argmax() != analysis.labels[i]]
        table = analysis.failures.mistakes[run.card["network"]]
        assert sorted(table["image"]) == wrong
        assert (np.diff(table["probability"]) <= 0).all()
        for row in table.itertuples():
            assert row.true == analysis.test.catalogue["class"][row.image] != row.called
            assert row.probability == pytest.approx(said[row.image].max())
    assert len(analysis.failures.mistakes["plain"]), "a plain network that is always right tests nothing"


def test_validation_decides_which_networks_are_compared(analysed, blobs):
    assert analysed(validation_auc={"round": 0.6, "plain": 0.9}).pair == ["round", "plain"]


def test_learning_curves_hold_every_share_and_nothing_is_read_off_a_single_one(analysed):
    analysis = analysed(seeds=(1, 2), shares=(50.0, 100.0))
    assert [curve.sizes for curve in analysis.curves.values()] == [[50, 100]] * 2
    for name, curve in analysis.curves.items():
        assert curve.table.score[1] == pytest.approx(analysis.unperturbed["auc"][name])
    assert len(analysis.matches) == 2
    first, second = analysis.pair
    lead = [analysis.curves[first].table.score[k] - analysis.curves[second].table.score[k] for k in (0, 1)]
    assert analysis.ahead["value"].to_list() == pytest.approx(lead)
    assert analysis.training_and_test["images"].to_list() == [50, 100] * 2
    for table in (analysis_tables.ahead, analysis_tables.training_and_test):
        assert "50" in table(analysis).to_html()


def test_the_matched_plain_network_is_compared_first_and_what_explains_it_is_taken_apart(analysed):
    analysis = analysed(
        networks=("round", "plain", "round-matched"), seeds=(1, 2), validation_auc={"plain": 0.99, "round-matched": 0.6}
    )
    assert analysis.pair == ["round", "round-matched"] and analysis.others == ["plain"]
    assert "Of the others, round is ahead of plain by" in analysis.answer
    images, labels = analysis.test.images, analysis.labels
    run = next(run for run in analysis.trained if run.card["network"] == "round-matched")
    moved = [np.rot90(one, k, axes=(2, 3)) for one in (images, images[..., ::-1]) for k in range(4)]
    averaged = np.mean([run.predict(one) for one in moved], axis=0)
    assert averaged_over_motions(run, images) == pytest.approx(averaged, abs=1e-6)
    table = analysis.explanation.set_index("second")
    gain = roc_auc_score(labels, averaged[:, 1]) - analysis.unperturbed["auc"]["round-matched"]
    alone = analysis.explanation[analysis.explanation["what"].str.startswith("exact invariance:")].iloc[0]
    assert alone["value"] == pytest.approx(gain)
    left = table.loc["round-matched, averaged"]
    assert left["value"] == pytest.approx(analysis.unperturbed["auc"]["round"] - roc_auc_score(labels, averaged[:, 1]))
    trained = analysis.dataset.part("train")
    expected = [roc_auc_score(trained.labels, run.predict(trained.images)[:, 1]) for run in analysis.trained[::2]]
    found = analysis.training_scores.drop_duplicates("network")["upright"]
    assert found.to_list() == pytest.approx(expected)
    assert analysis.explanation["what"].iloc[-1].startswith("optimisation")
    assert set(analysis.explanation["images"]) == {100}


def test_the_picture_of_the_answer_shows_the_scores_of_the_table(analysed):
    """Heights of the left panel are 1 - AUC at each number of images; of the right one, on rotated images."""
    analysis = analysed(seeds=(1, 2), shares=(50.0, 100.0))
    figure = answer(analysis)
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.lines}
    for name in analysis.networks:
        line, error = lines[name], 1 - analysis.unperturbed["auc"][name]
        assert list(line.get_xdata()) == [50, 100] and line.get_ydata()[-1] == pytest.approx(max(error, 1e-12))
    rotated = analysis.by_perturbation[analysis.by_perturbation["perturbation"] == "random rotations"]
    heights = [container[0].get_ydata()[0] for container in right.containers]
    assert sorted(heights) == pytest.approx(sorted(np.maximum(1 - rotated["auc"], 1e-12)))
    assert "over test images and seeds" in figure.caption
    plt.close(figure)


def test_with_one_number_of_images_every_network_has_a_row(analysed):
    analysis = analysed(seeds=(1, 2))
    figure = answer(analysis)
    left, right = figure.axes
    rows = [label.get_text() for label in left.get_yticklabels()]
    assert sorted(rows) == sorted(analysis.networks)
    errors = [analysis.unperturbed["auc"][name] for name in rows]
    assert errors == sorted(errors, reverse=True)
    table = analysis.by_perturbation.set_index(["network", "perturbation"])["auc"]
    drawn = [container[0].get_xdata()[0] for container in left.containers]
    expected = [1 - table[name, kind] for kind in ("unperturbed", "random rotations") for name in rows]
    assert drawn == pytest.approx(np.maximum(expected, 1e-12))
    moves = [container[0].get_xdata()[0] for container in right.containers]
    assert moves == pytest.approx([analysis.rotation_consistency[name] for name in rows])
    plt.close(figure)


def test_the_interval_of_a_quantile_covers_it():
    """Normal values, whose 95th percentile is 1.645: 95 to 98.5 % of 1,000 experiments; the ranks
    are integers, so that it is a little above nominal."""
    generator = np.random.default_rng(1)
    edges = [quantile_interval(generator.normal(size=250), 0.95) for _ in range(1000)]
    assert 0.95 <= np.mean([low <= 1.644854 <= high for low, high in edges]) <= 0.985


def test_many_test_images_are_shifted_and_blurred_in_part_only(analysed, monkeypatch):
    monkeypatch.setattr("lensstudy.evaluation.analysis.PERTURBED", 10)
    analysis = analysed()
    images = analysis.by_perturbation.drop_duplicates("perturbation").set_index("perturbation")["images"]
    assert images["unperturbed"] == images["rotated by 90°"] == images["random rotations"] == len(analysis.test)
    assert set(images.drop(["unperturbed", "rotated by 90°", "random rotations"])) == {10}


def test_where_there_is_nothing_to_compare_tables_are_empty(analysed):
    analysis = analysed(networks=("round",))
    assert analysis.pairs.empty and analysis.matches.empty and analysis.failures.detection() == {}
    assert "the only network of this study" in analysis.answer and analysis.seed_by_seed == ""
    assert any("One seed each" in line for line in analysis.limitations)


def test_the_task_says_how_well_the_substructure_could_be_seen():
    """Of images without noise, of images whose detectability is set by hand, and of images that bring none."""
    lenses = simulate("model_3", 4, seed=1, image_size=24, classes=["no_sub", "cdm"])
    assert on_task(lenses, lenses.classes).endswith("would detect any."), "there is no noise in these"
    lenses.catalogue["detectability_refit"] = [0.0] * 4 + [1.0, 1234.0, 1234.0, 5000.0]
    said = on_task(lenses, lenses.classes)
    assert "no_sub or cdm?" in said and "8 test images, simulated with the preset model_3" in said
    assert said.endswith("would detect it at 1,200 sigma for cdm in the median lens; noise alone gives about 1.")
    lenses.description["source"] = "files"
    lenses.catalogue = lenses.catalogue.drop(columns="detectability_refit")
    said = on_task(lenses, lenses.classes)
    assert "read from files" in said and said.endswith("is not known.")


def test_the_answer_is_a_plain_sentence_before_any_score(analysed):
    first, *numbers = analysed().answer.split(". ")
    assert "round" in first and "plain" in first and "[" not in first
    assert "[" in numbers[0]


def test_what_is_saved_is_what_was_shown(analysed):
    analysis = analysed()
    analysis.save(SimpleNamespace(caption="a caption", alt="words"))
    summary = json.loads((analysis.folder / "summary.json").read_text())
    assert summary["task"] == analysis.task
    assert summary["table"] == analysis.scores.to_dict("records")
    assert (summary["figure"], summary["figure_caption"], summary["figure_alt"]) == (
        "headline.png", "a caption", "words",
    )  # fmt: skip
    assert summary["pairs"][0].keys() == {"first", "second", "value", "low", "high", "p", "p_accuracy"}
    table = pd.read_json(analysis.folder / "table.json")
    assert table["auc"].to_numpy() == pytest.approx(analysis.by_perturbation["auc"].to_numpy())


def test_the_table_of_a_simulated_study_has_a_row_of_the_smooth_fit():
    lenses = simulate("model_3", 10, seed=1, image_size=24).split(0.2, 0.4, seed=1)
    tables = {}
    for images in (2, 0):
        analysis = Analysis(Study(smooth_fit_images=images), lenses, {100.0: []})
        analysis.by_perturbation = pd.DataFrame({"perturbation": []})  # no networks
        tables[images] = analysis.scores
    row = tables[2].iloc[-1]
    assert row["network"] == "(smooth fit)" and row["test images"] == "6 images: no_sub or not"
    assert row["AUC"].startswith("1.000 [") and row["accuracy"] == ""
    pd.testing.assert_frame_equal(tables[0], tables[2].iloc[:-1])


def test_beside_the_smooth_fit_networks_are_asked_what_it_is_asked(analysed):
    """A network that knows substructure from none, and nothing of its kind, is right in this and only in this."""
    analysis = analysed(seeds=(1, 2))
    analysis.shortcuts = pd.DataFrame({"network": ["(smooth fit)"]})
    analysis.classes = ("no_sub", *analysis.classes[1:])
    knows = np.where(analysis.labels[:, None] == 0, [0.8, 0.1, 0.1], [0.2, 0.4, 0.4])
    analysis.probabilities = {"knows": [knows, knows], "half": [knows, np.full_like(knows, 1 / 3)]}
    table = analysis.substructure.set_index("network")
    assert table["auc"].to_dict() == pytest.approx({"knows": 1.0, "half": 0.75})
    assert table.loc["half", "auc_low"] < 0.75 < table.loc["half", "auc_high"]
    assert (table["perturbation"] == f"{len(knows)} images: no_sub or not").all()


def test_an_interval_over_seeds_that_are_all_perfect_is_as_narrow_as_the_images_allow():
    low, high = seed_interval([1.0] * 5, 3000)
    assert high == 1 and 0.995 < low < 1
    low, high = seed_interval([0.90, 0.92, 0.94], 3000)
    assert 0.85 < low < 0.90 and 0.94 < high < 0.97


def test_predictions_are_kept_until_something_behind_them_changes(analysed, tmp_path):
    first = analysed(seeds=(1, 2), shares=(50.0, 100.0))
    runs = [run for each in first.by_share.values() for run in each]
    asked = []
    for number, run in enumerate(runs):
        run.folder = tmp_path / f"run{number}"
        run.folder.mkdir()
        (run.folder / "weights.safetensors").write_bytes(b"weights %d" % number)
        (run.folder / "card.json").write_text("{}")
        run.predict = lambda *given, run=run: asked.append(run.folder.name) or run.network.predict(*given)

    def analyse(**changes):
        asked.clear()
        analysis = Analysis(first.study.model_copy(update=changes), first.dataset, first.by_share)
        tables = [
            analysis.by_perturbation,
            analysis.training_scores,
            analysis.explanation,
            analysis.curves["plain"].table,
        ]
        return tables, {name: change.tolist() for name, change in analysis.rotation_changes.items()}

    before = analyse()
    assert set(asked) == {run.folder.name for run in runs}
    again = analyse()
    assert not asked
    for one, other in zip(before[0], again[0], strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert before[1] == again[1]
    # Other angles ask for those alone, other images of a perturbation for all of it; resamplings ask for nothing.
    analyse(bootstrap_samples=7)
    assert not asked
    assert analyse(orientations=3)[1] != before[1] and len(asked) == 3 * len(first.trained)
    analyse(perturbation_shift=1.0)
    assert set(asked) == {run.folder.name for run in first.trained}
    # Other weights, and a file that is damaged.
    analyse()
    (runs[0].folder / "weights.safetensors").write_bytes(b"trained again")
    analyse()
    assert set(asked) == {"run0"}
    (runs[1].folder / "card.json").write_text('{"crop": 8}')
    analyse()
    assert set(asked) == {"run1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lensstudy.evaluation.analysis.ROTATED", 3)
        assert all(len(changes) == 3 for changes in analyse()[1].values())
    analyse()
    (runs[-1].folder / "kept" / "perturbed.npz").write_bytes(b"PK")
    found = analyse()
    assert set(asked) == {runs[-1].folder.name}
    pd.testing.assert_frame_equal(found[0][0], before[0][0])


def test_a_lead_that_stands_on_the_training_images_may_be_one_in_steps(analysed):
    analysis = analysed()
    first, other = analysis.pair
    learnt = analysis.training_scores.set_index("network")["upright"]
    said = [line for line in analysis.limitations if "more steps may close" in line]
    ahead = analysis.unperturbed["auc"][first] - analysis.unperturbed["auc"][other]
    assert len(said) == (0 < ahead <= 2 * (learnt[first] - learnt[other]))
    assert on_steps("a", "b", (0.99, 0.97), 0.03, 1200)[0].startswith(
        "On the 1,200 images that it was trained on, b has"
    )
    assert not on_steps("a", "b", (0.99, 0.98), 0.03, 1200) and not on_steps("a", "b", (0.99, 0.97), -0.01, 1200)
