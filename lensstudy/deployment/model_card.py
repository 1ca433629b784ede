"""The card of an exported network as people read it: `README.md` in the form of Hugging Face, made from `card.json`.

Everything on the page is taken from the `Card`, so that nothing is typed twice. The block of YAML on top has the keys
by which the Hugging Face Hub lists a model, with its scores as a `model-index`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from lensstudy.deployment.card import Card
from lensstudy.text import in_markdown

__all__ = ["README", "model_card", "name_of", "write"]

README: Final = "README.md"
TAGS = ("gravitational-lensing", "dark-matter", "astronomy", "onnx")
SCORES = {"auc": ("roc_auc", "AUC"), "accuracy": ("accuracy", "accuracy")}  # id of the metric on the Hub, and its name


def write(card: Card, folder: Path) -> Path:
    """Write `README.md` and, as the last file of an export, `card.json` to `folder`. Returns the latter."""
    (folder / README).write_text(model_card(card), encoding="utf-8")
    return card.write(folder)


def model_card(card: Card) -> str:
    """Describe an exported network in Markdown, with the metadata of a Hugging Face model card on top.

    Args:
        card: its card, as `Card.read` opens it.

    Returns:
        The text of its `README.md`. Text from the card is escaped: it shows as it is, and never as markup.

    Example:
        >>> from lensstudy.networks.names import PRETRAINED
        >>> model_card(Card.read(PRETRAINED / "realistic-d4")).splitlines()[1:3]
        ['license: mit', 'library_name: lensstudy']
    """
    metadata = yaml.safe_dump(_metadata(card), sort_keys=False, allow_unicode=True, width=120)
    sections = {
        "Intended use": _intended_use(card),
        "Training data": _training_data(card),
        "Training": _training(card),
        "Evaluation": _evaluation(card),
        "Limits": [f"- {in_markdown(limit)}" for limit in card.limits],
        "Licence": _licence(card),
    }
    purpose = card.training.get("purpose")
    lines = [f"# {in_markdown(name_of(card))}", *(["", in_markdown(purpose)] if purpose else [])]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    lines += ["", "This page is made from `card.json`, which says more, such as the SHA-256 of every file."]
    return f"---\n{metadata}---\n\n" + "\n".join(lines) + "\n"


def name_of(card: Card) -> str:
    """The name of a network that comes with the package; the architecture of any other."""
    made = card.training.get("made_by", {})
    return Path(made["parameters"]).stem if "parameters" in made else card.network


def _slug(text: Any) -> str:
    return re.sub(r"[^a-z0-9.-]+", "-", str(text).lower()).strip("-.") or "unknown"


# Metadata -------------------------------------------------------------------------------------------------------------


def _metadata(card: Card) -> dict[str, Any]:
    data = _data_name(card)
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"type": data, "name": f"{data}: {what}"},
            "metrics": [
                {"type": id_, "name": f"{name} (95 % interval {low:.3f} to {high:.3f})", "value": round(value, 4)}
                for score, (id_, name) in SCORES.items()
                for value, low, high in [_interval(row[score])]
            ],
        }
        for what, row in _scored(card)
    ]
    return {
        "license": card.licence.lower(),
        "library_name": "lensstudy",
        "pipeline_tag": "image-classification",
        "tags": [*TAGS, *(["equivariance"] if card.symmetry else [])],
        "metrics": [id_ for id_, _ in SCORES.values()],
        "model-index": [{"name": name_of(card), "results": results}],
    }


def _data_name(card: Card) -> str:
    """An id for the training images: the preset that simulated them, or the name of what was read."""
    data = card.training.get("data", {})
    simulated = data.get("source") in ("simulated", "mixed")
    return f"lensstudy-{_slug(data.get('preset'))}" if simulated else _slug(Path(str(data.get("source", ""))).name)


def _interval(score: dict) -> tuple[float, float, float]:
    return score["value"], *score["interval"]


def _scored(card: Card) -> list[tuple[str, dict]]:
    """What a network was scored on, and its AUC and accuracy there; images that no choice has seen come first."""
    metrics = card.metrics
    rows = []
    if "unseen" in metrics:
        rows.append((metrics["unseen"]["of"], metrics["unseen"]))
    for perturbation, row in metrics.get("test", {}).items():
        if isinstance(row, dict) and all(row[score]["value"] is not None for score in SCORES):
            rows.append((f"test images, {perturbation}{', mean of single seeds' * _of_single_seeds(card)}", row))
    return [*rows, ("validation images, by which its best checkpoint was chosen", metrics["validation"])]


def _of_single_seeds(card: Card) -> bool:
    """Whether the scores on test images are the mean over trainings, and not of the mean of their logits."""
    return "mean over the seeds" in card.metrics.get("test", {}).get("of", "")


# Sections -------------------------------------------------------------------------------------------------------------


def _intended_use(card: Card) -> list[str]:
    images = card.images
    scale = f"of {images.pixel_scale:.4g} arcsec" if images.pixel_scale else "of unknown scale"
    bands = "1 band" if images.channels == 1 else f"{images.channels} bands"
    if "made_by" in card.training:
        opened = f'lensstudy.pretrained("{_slug(name_of(card))}")'
    else:
        opened = 'lensstudy.Predictor("FOLDER")  # the folder of this file'
    lines = [
        f"It gives an image of a gravitational lens the probabilities of {len(card.classes)} classes: "
        f"{', '.join(map(in_markdown, card.classes))}. Images are {images.image_size} x {images.image_size} pixels "
        f"{scale} in {bands}, not scaled or normalised beforehand.",
    ]
    if card.symmetry:
        of = "rotations and reflections" if card.symmetry[0] in "DO" else "rotations"
        group = in_markdown(card.symmetry)
        lines[0] += f" By its architecture, the probabilities are invariant under {of} of the group {group}."
    return [*lines, "", "```python", "import lensstudy", "", f"predictor = {opened}"] + [
        "table = predictor.predict(images)  # (N, C, H, W): a probability for each class, and whether to trust it",
        "```",
    ]


def _training_data(card: Card) -> list[str]:
    training, data = card.training, card.training.get("data", {})
    lines = []
    if data.get("source") == "mixed":
        lines.append("Simulated by lensstudy, as a mixture of:")
        lines += ["", *(f"- {_simulation(part)}" for part in data.get("presets", [])), ""]
    elif data.get("source") == "simulated":
        lines += [f"Simulated by lensstudy: {_simulation(data)}.", ""]
    else:
        lines += [f"Read from {in_markdown(data.get('source', 'files'))}.", ""]
    lines.append(
        f"It was trained on {training['training_images']:,} images; the data set has the fingerprint "
        f"`{_slug(training['data_fingerprint'])}`."
    )
    if shares := training.get("class_shares"):
        each = ", ".join(f"{in_markdown(name)} {share:.1%}" for name, share in zip(card.classes, shares, strict=True))
        lines[-1] += f" Shares of the classes: {each}."
    return lines


def _simulation(data: dict) -> str:
    """One preset, as a clause."""
    given = data.get("instrument", {})
    instrument = f", instrument {in_markdown(given['name'])}" if "name" in given else ""
    psf = f", PSF of {given['psf_fwhm']:.3g} arcsec (FWHM)" if "psf_fwhm" in given else ""
    preset, seed = in_markdown(data.get("preset", "")), in_markdown(data.get("seed", "unknown"))
    return f"preset {preset}{instrument}{psf}, seed {seed}"


def _training(card: Card) -> list[str]:
    training, made = card.training, card.training.get("made_by", {})
    lines = [
        f"Architecture {in_markdown(card.network)} of width {training['width']:g}; {training['epochs']} epochs with "
        f"{in_markdown(training['optimizer'])}, learning rate {training['learning_rate']:g}, schedule "
        f"{in_markdown(training['schedule'])}, batches of {training['batch_size']}, augmentation "
        f"{in_markdown(training['augmentation'])}, {_seeds(training)}."
    ]
    if made:
        lines[0] += (
            f" Made by {in_markdown(made['command'])} from {in_markdown(made['parameters'])}, with lensstudy "
            f"{in_markdown(made['version'])} (commit {in_markdown(made['commit'])})."
        )
    return lines


def _seeds(training: dict) -> str:
    """Which seed a training had, or of which several the logits are averaged."""
    if "seeds" not in training:
        return f"seed {training['seed']}"
    return f"the mean of the logits of {len(training['seeds'])} seeds ({', '.join(map(str, training['seeds']))})"


def _evaluation(card: Card) -> list[str]:
    over = "over images, of single seeds over seeds too" if _of_single_seeds(card) else "over images"
    lines = [f"Intervals are of 95 % {over}.", "", "| Images | Number | AUC | Accuracy |", "|---|---:|---|---|"]
    for what, row in _scored(card):
        auc, accuracy = ("{:.3f} [{:.3f}, {:.3f}]".format(*_interval(row[score])) for score in SCORES)
        number = f"{row['images']:,}" if "images" in row else ""
        lines.append(f"| {in_markdown(what)} | {number} | {auc} | {accuracy} |")
    if unseen := card.metrics.get("unseen"):
        lines += [
            "",
            f"Rotation consistency: rotated by any angle, the probabilities of 95 % of the images change by less than "
            f"{unseen['rotation_consistency']:.2g}; rotated by multiples of 90 degrees, those of all images by less "
            f"than {_above(unseen['largest_change_at_90_degrees'])}.",
        ]
    calibration = card.calibration
    lines += [
        "",
        f"Calibration: {in_markdown(calibration['method'])}; log loss {calibration['log_loss_before']:.3f} before, "
        f"{calibration['log_loss_after']:.3f} after.",
    ]
    if card.in_distribution:
        lines += ["", f"Out of distribution: {in_markdown(card.in_distribution['method'])}."]
    if rounded := card.metrics.get("int8"):
        lines += [
            "",
            f"Rounded to int8, it gives {rounded['same_class']:.1%} of the validation images the class of the trained "
            f"network; its AUC falls by {rounded['auc_loss']:.4f}.",
        ]
    return lines


def _above(value: float) -> str:
    """The next number of two digits above `value`."""
    return f"{value * 1.05 + 1e-12:.2g}"


def _licence(card: Card) -> list[str]:
    lines = [f"The network: {in_markdown(card.licence)}."]
    if licence := card.training.get("data_licence"):
        lines.append(
            f"The training images: {in_markdown(licence).removeprefix('none of others: ')}."
        )  # of cards until 0.2.0
    return [" ".join(lines)]
