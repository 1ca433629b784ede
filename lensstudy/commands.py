"""The commands of `lensstudy` for images of one's own: `export`, `predict`, `train`, `fit-lens`.

The exit status tells a script what came out: 0 all good, 1 some images were rejected or are of unknown pixel scale, 2
nothing usable or wrong use. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import csv
import glob
import os
import re
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lensstudy.files import printable, whole_file
from lensstudy.text import as_cell

__all__ = ["check_free", "export", "fit_lens", "image_of", "predict", "reading_options", "train"]

FIRST = "d4-steerable-cnn"  # the default
TABLES = (".csv", ".txt")
Force = Annotated[bool, typer.Option("--force", help="replace files that are there already")]
SUBMISSIONS = {"sub": ("has_substructure", True), "lens": ("is_lens", False)}  # column, and whether it is a decision
Classes = Annotated[str | None, typer.Option("--classes", help="names of the classes in order, with commas between")]
Labels = Annotated[
    str | None, typer.Option("--labels", help="CSV file with the class of each image, or an attribute of HDF5")
]
Columns = Annotated[str | None, typer.Option("--label-columns", help="its columns with names and classes: name,class")]
Extension = Annotated[
    str | None, typer.Option("--extension", help="FITS extension, HDF5 dataset or npz key of the image")
]
Resample = Annotated[
    bool, typer.Option("--resample/--no-resample", help="resample images to the network's pixel scale, or reject them")
]
Band = Annotated[str | None, typer.Option("--band", help="band to use of several: its number, from 0, or its name")]
Fill = Annotated[bool, typer.Option("--fill", help="fill NaN pixels with sky and its noise")]
Scale = Annotated[float | None, typer.Option("--pixel-scale", help="arcseconds of one pixel, where files do not say")]


def echo(text: str, err: bool = False) -> None:
    """Print text, whatever the names of files in it hold: none moves the cursor or colours the terminal."""
    typer.echo(printable(text, lines=True), err=err)


def export(
    run: Annotated[Path, typer.Argument(help="run folder, such as runs/quick/training/d4-steerable-cnn-s1")],
    format: Annotated[str, typer.Option(help="onnx, or int8 (rounded and faster)")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="folder to write; in the run folder, if none")] = None,
    data: Annotated[Path | None, typer.Option(help="data set of the training; its study's, if none")] = None,
    pixel_scale: Scale = None,
) -> None:
    """Export a trained network: a folder with ONNX and a card, which needs no e2cnn."""
    from lensstudy.deployment.card import FORMATS, check_network

    try:
        if format not in FORMATS:
            raise ValueError(f"format '{format}' is unknown; there are {', '.join(FORMATS)}")
        check_network(run)
        from lensstudy.deployment import exporting as deployment

        folder = deployment.export(run, out, format, data, pixel_scale)
        card = deployment.Card.read(folder)
    except (ValueError, OSError, ImportError) as error:
        _refuse(str(error))
    echo(f"{card.network} for {', '.join(card.classes)}, in {folder}")
    _warn(card.warning)
    if rounded := card.metrics.get("int8"):
        echo(f"  In int8 it names the same class for {rounded['same_class']:.1%} of validation images.")
    for limit in card.limits:
        if limit != card.warning:
            echo(f"  {limit}")


def predict(
    paths: Annotated[list[str], typer.Argument(help="images: files, folders, tars, HDF5, data sets or 'patterns*'")],
    network: Annotated[
        str | None, typer.Option(help="name of `lensstudy networks`, training or export; the one that fits, if none")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="classes that the network is to tell apart, with commas between")
    ] = None,
    out: Annotated[Path, typer.Option(help="table of the predictions")] = Path("predictions.csv"),
    rotations: Annotated[int, typer.Option(min=1, help="orientations of each image to average over")] = 1,
    pixel_scale: Scale = None,
    extension: Extension = None,
    batch_size: Annotated[int, typer.Option(min=1, help="images at a time")] = 256,
    resample: Resample = True,
    band: Band = None,
    fill: Fill = False,
    html: Annotated[Path | None, typer.Option(help="page to write beside the table, with pictures")] = None,
    prior: Annotated[
        str | None, typer.Option(help="frequency of each class: 0.99,0.005,0.005, a file of 'class,share', or train")
    ] = None,
    submission: Annotated[
        Path | None, typer.Option(help="CSV of two columns for a challenge: Roman's (sub) or a lens finding one (lens)")
    ] = None,
    force: Force = False,
) -> None:
    """Predict the class of every image; where none can be named, a row says why. Without --network, the one that comes
    with lensstudy and fits the images is chosen."""
    from lensstudy.deployment.card import check_network
    from lensstudy.networks.names import SEARCHING

    if out.suffix.lower() not in TABLES:
        _refuse(f"--out {out}: the answers are a table; name it {' or '.join(TABLES)}")
    check_free("--out", out, force)
    if network in SEARCHING:
        others: dict[str, Any] = {
            "--classes": classes,
            "--extension": extension,
            "--band": band,
            "--html": html,
            "--prior": prior,
        }
        others |= {"--submission": submission, "--fill": fill, "--rotations": rotations > 1}
        if given := [option for option, value in others.items() if value]:
            _refuse(f"{', '.join(given)} beside --network {network}: this network has no use for it; leave it out")
        _search(paths, network, out, pixel_scale)
        return
    if submission:
        check_free("--submission", submission, force)
    if html:
        if html.suffix.lower() not in (".html", ".htm"):
            _refuse(f"--html {html}: is a page; name it .html")
        check_free("--html", html, force)
    asked = [name.strip() for name in classes.split(",")] if classes else None
    try:
        if network:
            check_network(network)
    except (ValueError, RuntimeError) as error:  # the second of a home that is unknown
        _refuse(str(error))
    if not network and (given := next(filter(_is_network, paths), None)):
        _refuse(f"{given}: is a network; name it behind --network: lensstudy predict IMAGES --network {given}")
    if not any(map(exists, paths)):
        _refuse(f"{', '.join(paths)}: nothing exists at {'this path' if len(paths) == 1 else 'these paths'}")
    from lensstudy.deployment.choosing import choose, same_classes
    from lensstudy.deployment.predictor import STATES, Predictor

    if html:
        from lensstudy.report.predictions import MOST_ROWS, thumbnail, write_predictions

    why = ""
    try:
        number, place = image_of(extension, band)
        options: dict = {"pixel_scale": pixel_scale, "resample": resample, "band": number, "fill": fill}
        if not network:
            network, why = choose(paths, place, asked, **options)
            echo(f"network: {why}", err=True)
        predictor = Predictor(network, rotations, batch_size=batch_size, prior=_shares(prior), **options)
        if asked and not same_classes(asked, predictor.classes):
            raise ValueError(f"--classes {classes}: {network} tells {', '.join(predictor.classes)} apart")
        if submission and predictor.classes[-1] not in SUBMISSIONS:
            raise ValueError(
                f"--submission {submission}: the challenges ask for substructure or for lenses, and this network tells "
                f"{', '.join(predictor.classes)} apart"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, ImportError) as error:
        _refuse(str(error))
    progress = not os.environ.get("LENSSTUDY_BATCH")
    counts, shown, submitted = dict.fromkeys(STATES, 0), [], []
    with whole_file(out) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        columns = [*predictor.columns, "network"]
        table = csv.DictWriter(file, columns)
        table.writerow({name: as_cell(name) for name in columns})
        for row in predictor.predict_files(paths, place, progress, with_input=html is not None):
            if html and len(shown) < MOST_ROWS:
                seen = row.pop("input", None)
                shown.append(row | ({} if seen is None else {"thumbnail": thumbnail(seen)}))
            row.pop("input", None)
            # The first of each kind is said at once.
            if row["state"] in ("rejected", "pixel scale unknown") and not counts[row["state"]]:
                echo(f"{row['file']}: {row['reason'].removeprefix(row['file'] + ': ')}", err=True)
            counts[row["state"]] += 1
            if submission and row["state"] != "skipped":
                submitted.append((row["file"], row.get(predictor.classes[-1])))
            table.writerow({name: as_cell(value) for name, value in row.items()} | {"network": as_cell(network)})
    said = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    echo(f"{out}: {said or 'no images'}")
    if submission:
        _write_submission(submission, predictor.classes[-1], submitted)
    if html:
        write_predictions(html, shown, predictor.card, counts, str(out), why)
        echo(f"{html}: a page of them")
    _warn(predictor.card.warning)
    if predictor.distribution is None:
        echo("This network cannot tell which images are out of distribution: judge that yourself.", err=True)
    if not predictor.card.images.pixel_scale:
        echo("This network does not know how large its pixels are: check yourself that yours are as large.", err=True)
    judged = counts["ok"] + counts["out of distribution"]
    if not judged + counts["pixel scale unknown"]:
        raise typer.Exit(2)
    if counts["rejected"] + counts["pixel scale unknown"]:
        raise typer.Exit(1)


def _search(paths: list[str], network: str, out: Path, pixel_scale: float | None) -> None:
    """The table of a network that searches lenses for subhalos, and what it says in one line."""
    if len(paths) != 1 or not exists(paths[0]):
        _refuse(f"{', '.join(paths)}: {network} searches the lenses of one folder or file that exists; name it")
    from lensstudy.observations.sample_search import search_lenses

    work = out.with_name(f"{out.stem}-lenses")
    try:
        echo(f"models and counterparts, about two minutes for each lens: {work}", err=True)
        table = search_lenses(network, paths[0], work, pixel_scale)
        out.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        _refuse(str(error))
    with whole_file(out) as partial:
        table.map(as_cell).to_csv(partial, index=False)
    said = ", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items())
    echo(f"{out}: {said}")
    echo("A low share of false alarms is no detection: real lenses have more that a smooth model lacks.", err=True)
    if (table["state"] == "failed").any():
        raise typer.Exit(1)


def _write_submission(file: Path, name: str, rows: list[tuple[str, float | None]]) -> None:
    """The table that a challenge takes: what each image is called, and the decision or the probability."""
    column, decided = SUBMISSIONS[name]
    with whole_file(file) as partial, open(partial, "w", newline="", encoding="utf-8") as target:
        table = csv.writer(target)
        table.writerow(("ID", column))
        for image, probability in rows:
            if probability is not None:
                value = probability > 0.5 if decided else f"{probability:.4f}"
                table.writerow((as_cell(Path(image.rsplit(":", 1)[-1]).stem), value))
    without = sum(probability is None for _, probability in rows)
    typer.echo(
        f"{file}: {len(rows) - without:,} rows" + (f"; {without:,} rejected images have none" if without else "")
    )


def train(
    data: Annotated[Path, typer.Option(help="folder, tar or zip with one folder a class")],
    out: Annotated[Path, typer.Option(help="run folder to write")],
    begin: Annotated[
        str | None,
        typer.Option("--from", help="network to fine-tune: a run folder, or a name of `lensstudy networks`"),
    ] = None,
    network: Annotated[str | None, typer.Option(help=f"network to train from scratch; {FIRST}, if none")] = None,
    pixel_scale: Scale = None,
    classes: Classes = None,
    labels: Labels = None,
    label_columns: Columns = None,
    extension: Extension = None,
    keep_parts: Annotated[bool, typer.Option("--keep-parts", help="keep the given parts (train, test)")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="passes over the training images")] = 8,
    learning_rate: Annotated[float, typer.Option(help="highest learning rate")] = 0.001,
    batch_size: Annotated[int, typer.Option(min=1, help="images in one step")] = 32,
    test_fraction: Annotated[float, typer.Option(help="share of the images kept for a test")] = 0.1,
    validation_fraction: Annotated[float, typer.Option(help="share of the rest on which the epoch is chosen")] = 0.1,
    seed: Annotated[int, typer.Option(help="seed of the split, of the order and of the rotations")] = 1,
    class_weights: Annotated[str, typer.Option(help="none, or balanced: rare classes count as others do")] = "none",
    target: Annotated[
        Path | None, typer.Option(help="images without labels, of another kind, that it is to work on, too")
    ] = None,
    adaptation: Annotated[
        str | None,
        typer.Option(
            help="how it learns from them: sinkhorn, adversarial, pseudo-labels, or batch-norm, if none is named"
        ),
    ] = None,
    target_pixel_scale: Annotated[
        float | None, typer.Option("--target-pixel-scale", help="arcseconds of one of their pixels")
    ] = None,
    camera: Annotated[
        str, typer.Option(help="preset whose camera took the images: what a smooth lens leaves of them is seen, too")
    ] = "",
    target_camera: Annotated[str, typer.Option(help="the preset whose camera took those of --target")] = "",
) -> None:
    """Train a network on your own images, or fine-tune a trained one; with --target, adapt it to images of another kind
    that have no labels."""
    from lensstudy.deployment.card import LEAST_AUC, check_network
    from lensstudy.networks.names import check_name
    from lensstudy.study import Study

    settings = {name: value for name, value in locals().items() if name in ("epochs", "learning_rate", "batch_size")}
    settings |= {"test_fraction": test_fraction, "validation_fraction": validation_fraction, "seed": seed}
    settings |= {"class_weights": class_weights}
    if begin and network:
        _refuse(
            f"--network {network} beside --from {begin}: a fine-tuned network keeps its architecture; leave one out"
        )
    settings |= {} if begin else {"network": network or FIRST}
    settings |= {"split": "given"} if keep_parts else {}
    if target is None and (adaptation or target_pixel_scale):
        _refuse("--adaptation and --target-pixel-scale belong to --target, the images without labels; name them")
    settings |= {"adaptation": adaptation} if adaptation else {}
    settings |= {"camera": camera} if camera else {}
    reading = reading_options(classes, labels, label_columns, extension)
    try:
        if begin:
            check_network(begin)
        else:
            check_name(network or FIRST)
        if not exists(str(data)):
            raise ValueError(f"--data {data}: nothing exists at this path")
        if target and not exists(str(target)):
            raise ValueError(f"--target {target}: nothing exists at this path")
        Study.of(settings, "settings")
        from lensstudy.deployment.transfer import train_on

        scales = (pixel_scale, reading, target, target_pixel_scale, target_camera)
        folder, metrics = train_on(data, out, begin, *scales, **settings)
    except (ValueError, RuntimeError, OSError) as error:
        _refuse(str(error))
    echo(
        f"{folder}: validation AUC {metrics['validation_auc']:.4f}, accuracy {metrics['validation_accuracy']:.3f} "
        f"after epoch {metrics['best_epoch']}"
        + ("" if camera else f"; `lensstudy predict IMAGES --network {folder}` predicts with it")
    )
    if about := metrics.get("target"):
        shares = ", ".join(f"{share:.0%} {name}" for name, share in about["shares"].items())
        echo(
            f"  Adapted by {about['adaptation']}; these scores are of images like {data}, where it may cost accuracy.\n"
            f"  Of {about['images']:,} images without labels it calls {shares}; mean entropy {about['entropy']:.2f}, "
            f"where 0 is certain and 1 guessing. What it says of each: {out / 'target.csv'}"
        )
    if metrics["validation_auc"] < LEAST_AUC:
        _warn("THIS NETWORK IS AT CHANCE, where guessing gives an AUC of 0.50: train it longer, or on more images.")


def fit_lens(
    folder: Annotated[Path, typer.Argument(help="lenses: FITS or HDF5 files, or folders of them")],
    out: Annotated[Path, typer.Option(help="folder of the results; after an interruption, the same command resumes")],
    pixel_scale: Scale = None,
) -> None:
    """Fit a smooth model (elliptical power law, shear, multipoles) to every lens in a folder: a table, and a figure of
    each. Redshifts come from info.json or a CSV table with a column 'name' beside the lenses."""
    if not exists(str(folder)):
        _refuse(f"{folder}: nothing exists at this path; give a folder of lenses")
    import numpy as np

    from lensstudy.figures.observations import contact_sheet, lens_model
    from lensstudy.figures.style import png
    from lensstudy.observations.model_fits import fit_folder

    def done(row: dict) -> None:
        why = f", {row['reason']}" if row["reason"] else ""
        echo(f"{row['lens']} {row['band']}".rstrip() + f": {row['state']}{why}")

    try:
        table = fit_folder(folder, out, pixel_scale, done, lambda lens, model: png(lens_model(lens, model)))
        drawn = {row.lens: np.load(out / row.planes) for row in table.itertuples() if isinstance(row.planes, str)}
        (out / "contact-sheet.png").write_bytes(png(contact_sheet(drawn)))
    except (ValueError, OSError) as error:
        _refuse(str(error))
    counts = table["state"].value_counts()
    echo(f"{', '.join(f'{count} {state}' for state, count in counts.items())}: {out / 'lenses.csv'}")
    if (table["state"] == "failed").any():
        raise typer.Exit(2 if (table["state"] == "failed").all() else 1)


def _warn(text: str) -> None:
    if text:
        typer.secho(f"\n  {printable(text)}\n", err=True, fg=typer.colors.RED, bold=True)


def _shares(prior: str | None) -> Any:
    """Shares of classes as `--prior` gives them: numbers in the order of the classes, a table's file, or `train`."""
    if prior is None or prior == "train":
        return prior
    try:
        if "=" not in prior and not os.path.exists(prior):
            return [float(share) for share in prior.split(",")]
        text = Path(prior).read_text(encoding="utf-8") if os.path.exists(prior) else prior.replace(",", "\n")
        rows = [re.split(r"[,:=\t]", line) for line in text.splitlines() if line.strip()]
        if rows and rows[0][-1].strip().isalpha():  # the names of the columns
            rows.pop(0)
        return {name.strip(" \"'"): float(share) for name, share in rows}
    except (ValueError, OSError) as error:
        raise ValueError(
            f"--prior {prior}: {error}; expected one share a class, such as 0.99,0.005,0.005, or a file with a line "
            "'class,share' for each"
        ) from None


def _is_network(path: str) -> bool:
    """Whether a path to images is the name of a network, the folder of a training or one that `export` wrote."""
    from lensstudy.networks.names import pretrained_names

    folder = Path(os.path.expanduser(path))
    made = (folder / "metrics.json", *folder.glob("network*.onnx"))
    return (
        (folder / "card.json").exists()
        and any(map(Path.exists, made))
        or (path in pretrained_names() and not exists(path))
    )


def check_free(option: str, file: Path, force: bool) -> None:
    """A file that is there is kept, unless it is to be replaced."""
    if file.is_dir():
        _refuse(f"{option} {file}: is a folder; name a file in it")
    if file.exists() and not force:
        _refuse(f"{option} {file}: is there already; --force replaces it, or give another name")


def exists(path: str) -> bool:
    """Whether a path as a shell would fill it in, or a pattern, leads anywhere."""
    text = os.path.expandvars(os.path.expanduser(path))
    return os.path.exists(text) or bool(glob.glob(text, recursive=True))


def image_of(extension: str | None, band: str | None) -> tuple[int | None, str | int | None]:
    """The number of a band within an image, and the place of the image in its file, as a command line gives them."""
    if band and not band.isdigit():
        if extension:
            _refuse(f"--band {band} beside --extension {extension}: either names the image; leave one out")
        band, extension = None, band
    return int(band) if band else None, int(extension) if extension and extension.isdigit() else extension


def reading_options(
    classes: str | None, labels: str | None, label_columns: str | None, extension: str | None
) -> dict[str, Any]:
    """The options of `read` as a command line gives them."""
    columns = tuple(name.strip() for name in label_columns.split(",")) if label_columns else None
    if columns and len(columns) != 2:
        _refuse(f"--label-columns {label_columns}: expected two, with a comma between: name,class")
    return {
        "classes": [name.strip() for name in classes.split(",")] if classes else None,
        "labels": labels,
        "label_columns": columns,
        "extension": int(extension) if extension and extension.isdigit() else extension,
    }


def _refuse(message: str) -> NoReturn:
    echo(f"lensstudy: {message}", err=True)
    raise typer.Exit(2)
