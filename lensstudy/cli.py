"""The command `lensstudy`: run a study, make or look at data, render reports.

Each command is a few lines over the package; heavy imports wait until a command needs them, so that `--help` is quick.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
import typer.core

from lensstudy import __version__, commands, running, timing
from lensstudy.files import FileError, printable, whole_file
from lensstudy.progress import processors
from lensstudy.provenance import data_state
from lensstudy.series import members, studies
from lensstudy.study import (
    BUNDLE,
    ParameterError,
    Study,
    check_sees_images,
    home,
    notebook_parameters,
    notebooks_folder,
    study_file,
)
from lensstudy.text import nearest

__all__ = ["app"]


class _Commands(typer.core.TyperGroup):
    """What the system or a file refuses is one line: no rights, a full disk, a folder where a file was expected."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # of a pager that has been left, which typer knows about
            raise
        except (FileError, ParameterError, MemoryError) as error:
            _fail(str(error) or "out of memory")
        except OSError as error:
            name = error.filename2 or error.filename  # the second is what a file was to be called
            _fail(f"{name}: {error.strerror}" if name and error.strerror else str(error))
        except ValueError as error:
            if not type(error).__module__.startswith("lensstudy."):
                raise
            _fail(str(error))


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
CELL_TIMEOUT_S = 24 * 3600
FOREIGN_FILES = {  # group of parameters that names them
    "06-validate-on-real-lenses": "observations",
    "07-known-subhalo": "search",
    "08-apply": "application",
    "10-published-networks": "published",
}
TABLES_ONLY = "04-analyse"  # the page that needs no image of the data, which may not be ours to pass on


def _found(study: Path) -> Path:
    """The file of a study given by its name or path."""
    try:
        return study_file(study)
    except ParameterError as error:
        if (of_series := home() / "runs" / study / "study.yml").is_file():
            return of_series
        _fail(str(error))


StudyFile = Annotated[
    Path, typer.Argument(help="name of a study in params/, such as quick, or the path of its file", callback=_found)
]


def _version(wanted: bool) -> None:
    if wanted:
        commands.echo(f"lensstudy {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="show the version and exit", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """What does symmetry buy? Equivariant networks for dark matter in gravitational lenses."""
    warnings.formatwarning = lambda message, *_, **__: printable(f"lensstudy: {message}\n", lines=True)


@app.command()
def start(
    folder: Annotated[Path, typer.Argument(help="working folder to make, such as my-study")],
) -> None:
    """Make a working folder of your own: notebooks and parameter files to change, without a checkout."""
    parts = ("notebooks", "params", "workflow")
    if taken := [part for part in parts if (folder / part).exists()]:
        _fail(
            f"{folder}: already holds {', '.join(taken)}; nothing was changed. Name a new folder, or go on in this one"
        )
    if folder.exists() and not folder.is_dir():
        _fail(f"{folder}: is a file; name a new folder")
    for part in parts:
        shutil.copytree(BUNDLE / part, folder / part, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    commands.echo(
        f"{_shown(folder.resolve())}: now `cd` there; `jupyter lab notebooks` or `lensstudy run params/smoke.yml`"
    )


@app.command()
def run(
    study_file: StudyFile,
    cores: Annotated[
        int, typer.Option(help="processes at a time; 0: as many as processors, or as the profile says")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would be done")] = False,
    profile: Annotated[Path | None, typer.Option(help="Snakemake profile, such as workflow/slurm")] = None,
) -> None:
    """Run a whole study, or a series of them: only what is missing or has changed; then write its report."""
    files = _members(study_file)
    for file in files:
        study = _study(file)
        _check_names(file, study, study.networks)
        for page in study.pages:
            _check_page(page)
        try:
            check_sees_images(study, study.pages)
        except ParameterError as error:
            _fail(f"{file}: {error}")
        if not dry_run:
            _check_nodes(file, study)
    if not profile:
        cores = cores or processors()
    else:  # else it is the name of one that Snakemake knows
        there = (folder / profile for folder in (Path.cwd(), home(), BUNDLE))
        profile = next(filter(Path.exists, there), profile)
    done = [_run(file, cores, dry_run, profile) for file in files]
    if not all(done):
        raise typer.Exit(1)


def _run(study_file: Path, cores: int, dry_run: bool, profile: Path | None) -> bool:
    """Run one study, with progress; False where something failed, which has been told then."""
    study = _study(study_file)
    for group in dict.fromkeys(("data", *FOREIGN_FILES.values())):
        if changes := data_state(study, group).changes():
            commands.echo(f"{study.study}: files of the {group} have changed: {changes}; what they made is made again")
    options: list[object] = ["--profile", profile] if profile else []
    options += ["--cores", cores] if cores else []
    if damaged := _damaged(study):
        options += ["--forcerun", *(file.relative_to(home()) for file in damaged)]
    command = running.snakemake(study_file, *options, "--slurm-jobname-prefix", running.job_prefix(study))
    if dry_run:
        planned = subprocess.run([*command, "--dry-run", "--quiet", "rules"], capture_output=True, text=True)
        if planned.returncode:
            commands.echo(planned.stderr.strip() or planned.stdout.strip(), err=True)
            return False
        _, found, shown = planned.stdout.rpartition("Job stats:\n")
        if found:
            commands.echo(shown)
        commands.echo(timing.announced(study, running.Jobs(planned.stdout), cores))
        return True
    log = running.run_log(study)
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with running.only_one(study) as lock:
            if profile:
                running.wait_for_queue(study, commands.echo)
            graph = subprocess.run([*command, "--rulegraph"], capture_output=True, text=True)
            (study.folder / "jobs.dot").write_text(graph.stdout)
            running.keep_failures(study, {})
            with running.started(command, log, lock) as job:
                _watch(job, log, study)
            text = log.read_text(errors="replace")
            running.keep_failures(study, running.failures(text))
            index = _index(study)
    except running.AlreadyRunning as error:
        _fail(str(error))
    except running.QueueSilent as error:
        _fail(f"{study.study}: {error}; jobs of an earlier run may still go on, so nothing is begun. Try again later")
    except KeyboardInterrupt:
        _fail(f"{study.study}: interrupted; the same command goes on from here")
    if job.returncode:
        commands.echo(f"lensstudy: {_failures(study, text, log)}", err=True)
        return False
    commands.echo(f"{study.study}: done. The report is {_shown(index)}")
    return True


@app.command()
def status(study_file: StudyFile) -> None:
    """Show how far a running study is, from any terminal, and from any machine with the same disk."""
    found = studies(study_file)
    logs = {study.study: running.run_log(study) for study in found}
    if not any(log.exists() for log in logs.values()):
        name = _shown(study_file.resolve())
        _fail(f"{', '.join(logs)}: has not run yet in {home()}; `lensstudy run {name}` runs it")
    for study in found:
        if logs[study.study].exists():
            _tell_status(study, logs[study.study])
        else:
            commands.echo(f"{study.study}: has not run yet")


def _tell_status(study: Study, log: Path) -> None:
    text, who = log.read_text(errors="replace"), running.holder(study)
    jobs = running.Jobs(text)
    so_far = (
        f"{jobs.done} of {jobs.total} jobs of its last run are done" if jobs.total else "its last run has begun no job"
    )
    commands.echo(f"{study.study}: {who or 'not being run'}; {so_far}")
    if who:
        commands.echo(timing.left(study, jobs, running.began(text)) or "too early to say how long it will take")
    for name, (done, epochs, auc) in running.under_way(study, running.began(text)).items():
        commands.echo(f"{name}: epoch {done} of {epochs}" + (f", validation AUC {auc}" if auc else ""))
    for name, reason in running.failures(text).items():
        commands.echo(f"{name}: failed, {reason}")
    with suppress(running.QueueSilent):
        if queued := running.jobs_in_queue(study):
            commands.echo(f"jobs that SLURM holds: {', '.join(queued)}")


@app.command()
def notebook(
    page: Annotated[str, typer.Argument(help="notebook without its ending, such as 03-train")],
    study_file: StudyFile,
    network: Annotated[str | None, typer.Option(help="the network of 03-train")] = None,
    seed: Annotated[int | None, typer.Option(help="the seed of 03-train")] = None,
) -> None:
    """Run one notebook of a study and render its page; `lensstudy run` does this for all."""
    _check_page(page)
    study = _study(study_file)
    chosen = {name: value for name, value in (("network", network), ("seed", seed)) if value is not None}
    declared = notebook_parameters(notebooks_folder() / f"{page}.ipynb")
    if unknown := [name for name in chosen if name not in declared]:
        _fail(f"--{unknown[0]}: {page} has no parameter '{unknown[0]}'; its parameters are {', '.join(declared)}")
    study = Study.of(study.model_dump() | chosen, "the command line")
    _check_names(study_file, study, [study.network])
    from lensstudy.report import index as report

    name = f"{page}-{study.network}-s{study.seed}" if chosen else page
    executed = study.folder / "notebooks" / f"{name}.ipynb"
    html = _reports(study) / f"{name}.html"
    html.unlink(missing_ok=True)  # no page of an older run beside a failed notebook
    group = FOREIGN_FILES.get(page)
    state = data_state(study, group) if group else None
    try:
        report.execute(
            notebooks_folder() / f"{page}.ipynb",
            executed,
            study.model_dump(),
            study_file=study_file,
            log=study.folder / "logs" / f"{name}.log",
            timeout_s=CELL_TIMEOUT_S,
            cwd=home(),
        )
    except report.NotebookFailed as failure:
        _fail(str(failure))
    if state:
        state.keep()
    report.render(executed, html, parameter_file=study_file)


@app.command()
def fit(
    study_file: StudyFile,
    network: Annotated[str, typer.Option(help="network to train; the study's own, if none")] = "",
    seed: Annotated[int, typer.Option(help="its seed; the study's own, if none", min=-1)] = -1,
    share: Annotated[float, typer.Option(help="percent of the training images")] = 100.0,
    choose: Annotated[
        bool, typer.Option(help="make the trainings that choose its settings: `grid` and `alternatives`")
    ] = False,
) -> None:
    """Run one training of a study without a notebook: for learning curves, and for several GPUs or nodes."""
    study = _study(study_file)
    settings = study.training(network or study.network, study.seed if seed < 0 else seed, share)
    _check_names(study_file, study, [settings.network])
    from lensstudy import stages
    from lensstudy.training import tuning
    from lensstudy.training.fitting import TrainingDiverged, fit
    from lensstudy.training.run import load_run, read_metrics

    try:
        if choose:
            found = tuning.alternatives(study, stages.seen(study), settings.network)
            commands.echo(found[["settings", "auc", "loss"]].to_string(index=False))
            return
        folder = fit(stages.seen(study), settings, folder=settings.training_folder())
    except (ValueError, TrainingDiverged) as error:  # what a user can mend: parameters, data, a rate too high
        _fail(f"{study_file}: {error}")
    found = read_metrics(folder)
    commands.echo(
        f"{_shown(folder)}: {load_run(folder).card['training_images']} images, validation AUC "
        f"{found['validation_auc']:.4f}, {found['seconds']:.0f} s of training"
    )


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="a file of params/pretrained without its ending, such as realistic-d4")],
    data_licence: Annotated[str, typer.Option(help="licence of images that are read, for the card")] = "",
) -> None:
    """Make one of the networks that come with the package: train, export, and score it on new images."""
    from lensstudy.deployment import choosing, pretraining

    try:
        study = _study(pretraining.parameter_file(name))
        _check_names(pretraining.parameter_file(name), study, study.networks)
        from lensstudy import stages

        trained = [stages.trained(study, study.networks[0], seed) for seed in study.seeds]
        runs = [cast(Path, run.folder) for run in trained]  # each was opened from its folder
        folder = pretraining.put_in(runs, study, stages.dataset(study), data_licence)
        commands.echo(f"{_shown(folder)}:\n{choosing.listed({name: pretraining.Card.read(folder)})}")
    except (ValueError, RuntimeError, OSError) as error:
        _fail(str(error))


@app.command()
def report(
    studies: Annotated[list[str] | None, typer.Argument(help="names of studies; all that have run, if none")] = None,
    reference: Annotated[bool, typer.Option("--reference", help="write to reports/reference, to be committed")] = False,
    mark_outdated: Annotated[
        bool,
        typer.Option("--mark-outdated", help="only mark reference pages of older notebooks, and renew style and words"),
    ] = False,
) -> None:
    """Render the pages of finished studies again, from their executed notebooks, and the lists of pages."""
    names = studies or sorted(p.name for p in (home() / "runs").glob("*") if (p / "notebooks").is_dir())
    if unknown := [name for name in names if not (home() / "runs" / name).is_dir()]:
        near = nearest(unknown[0], [one.name for one in (home() / "runs").glob("*")])
        _fail(f"study '{unknown[0]}' has not run" + (f"; did you mean '{near}'?" if near else ""))
    from lensstudy.report import index as pages
    from lensstudy.report import listing

    if mark_outdated:
        kept = home() / "reports" / "reference"
        for page in pages.mark_outdated(kept, notebooks_folder()):
            commands.echo(f"{_shown(page)}: made with an earlier version of its notebook")
        pages.restyle(kept)
        pages.reworded(kept, home() / "params")
        listing.write_study_list(kept)
        return
    if not names:
        _fail("no study has run yet; `lensstudy run params/quick.yml` runs one")
    reports = home() / "reports" / ("reference" if reference else "")
    broken = 0
    for name in names:
        runs, file = home() / "runs" / name, home() / "params" / f"{name}.yml"
        executed, stamps = [], []
        for one in sorted((runs / "notebooks").glob("*.ipynb")):
            if ".failed" not in one.suffixes:
                try:
                    stamps.append(pages.read_executed(one)[1])
                    executed.append(one)
                except FileError as error:
                    broken += 1
                    commands.echo(f"{name}: {error}; run the study again", err=True)
        if not executed:
            commands.echo(f"{name}: no finished notebook in {_shown(runs / 'notebooks')}; skipped", err=True)
            continue
        only = None
        if reference and not all(stamp.get("redistributable", False) for stamp in stamps):
            only = [TABLES_ONLY]
            commands.echo(
                f"{name}: its images may not be published, so only {TABLES_ONLY} is written, without them", err=True
            )
        for one in executed:
            if only is None or one.stem in only:
                try:
                    pages.render(one, reports / name / f"{one.stem}.html", parameter_file=file, committed=reference)
                except ValueError as error:  # a notebook that nobody has stamped, or a picture that is none
                    broken += 1
                    commands.echo(f"{name}: no page of {one.stem} ({error})", err=True)
        commands.echo(f"{name}: {_shown(pages.write_index(runs, reports / name, committed=reference, only=only))}")
        if reference:  # what the README quotes
            for part in ("summary.json", "headline.png"):
                found = pages.summary_folder(runs) / part
                if found.exists() and (part == "summary.json" or pages.may_be_published(found, stamps)):
                    shutil.copyfile(found, reports / name / part)
            if only is None:
                _write_front(file, pages.summary_folder(runs) / "summary.json", reports / name / "front.png")
    listing.write_study_list(reports)
    if broken:
        raise typer.Exit(1)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="name of a study that has run")],
    second: Annotated[str, typer.Argument(help="name of another")],
) -> None:
    """Show two studies side by side: the parameters in which they differ, and their results."""
    runs = [home() / "runs" / name for name in (first, second)]
    for run_folder in runs:
        if not (run_folder / "notebooks").is_dir():
            _fail(f"study '{run_folder.name}' has not run; `lensstudy run params/{run_folder.name}.yml` runs it")
    from lensstudy.report import index as pages

    try:
        page = pages.compare(runs[0], runs[1], home() / "reports" / f"{first}-and-{second}.html")
    except FileNotFoundError as error:
        _fail(str(error))
    commands.echo(_shown(page))


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="folder, tar, zip or file of images")],
    sheet: Annotated[Path | None, typer.Option(help="PNG file for a contact sheet: images of every class")] = None,
    classes: commands.Classes = None,
    labels: commands.Labels = None,
    label_columns: commands.Columns = None,
    extension: commands.Extension = None,
    network: Annotated[
        str | None, typer.Option("--for", help="say of each image what `predict` would do, with this network")
    ] = None,
    pixel_scale: commands.Scale = None,
    band: commands.Band = None,
    fill: commands.Fill = False,
    resample: commands.Resample = True,
    force: commands.Force = False,
) -> None:
    """Show what is at a path: layout, classes, shapes, values, and problems for a study or, --for NETWORK, for a
    prediction."""
    if "$" not in str(path) and not commands.exists(str(path)):
        _fail(f"{path}: nothing exists at this path")
    if sheet:
        commands.check_free("--sheet", sheet, force)
    if network:
        _inspect_for(network, path, extension, band, pixel_scale=pixel_scale, fill=fill, resample=resample)
        return
    from lensstudy.data.dataset import DataError
    from lensstudy.data.inspection import inspect, inspect_text

    reading = commands.reading_options(classes, labels, label_columns, extension)
    found = inspect(path, progress=sys.stderr.isatty(), **reading)
    commands.echo(inspect_text(found), err=bool(found["errors"]))
    if sheet:
        try:
            commands.echo(f"contact sheet: {_shown(_contact_sheet(path, sheet, reading))}")
        except DataError as error:  # nothing there that could be drawn, as the lines above say
            commands.echo(f"no contact sheet: {error}", err=True)
    if found["errors"]:
        raise typer.Exit(1)


def _inspect_for(network: str, path: Path, extension: str | None, band: str | None, **options) -> None:
    """One line an image: what `predict` would do with it, as far as that shows without running the network."""
    from lensstudy.deployment.card import check_network

    try:
        check_network(network)
        from lensstudy.deployment.predictor import STATES, Predictor

        number, place = commands.image_of(extension, band)
        predictor = Predictor(network, band=number, **options)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        _fail(str(error))
    counts = dict.fromkeys(STATES, 0)
    for row in predictor.check_files([path], place, progress=sys.stderr.isatty()):
        counts[row["state"]] += 1
        name = f"{row['file']} {row['image'] or ''}".rstrip()
        why = "; ".join(filter(None, (row["reason"].removeprefix(row["file"] + ": "), row["note"])))
        commands.echo(f"{name}: {row['state']}" + (f", {why}" if why else ""))
    said = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    commands.echo(f"{said or 'no images'}; whether they are in distribution, `predict` tells")
    if not counts["ok"] + counts["pixel scale unknown"]:
        raise typer.Exit(1)


@app.command()
def simulate(
    preset: Annotated[str, typer.Option(help="preset, such as model_3 or realistic")],
    per_class: Annotated[int, typer.Option(help="images of each class")],
    seed: Annotated[int, typer.Option(help="seed of the images")],
    out: Annotated[Path, typer.Option(help="folder of the data set")],
    pixels: Annotated[int | None, typer.Option(help="pixels along one side; the preset's own, if none")] = None,
    noise_level: Annotated[float | None, typer.Option(help="noise of noise-free presets, in units of the peak")] = None,
    processes: Annotated[int, typer.Option(help="processes at a time; 0: as many as processors")] = 0,
    layout: Annotated[str, typer.Option(help="lensstudy, or deeplense for one file an image")] = "lensstudy",
) -> None:
    """Simulate a data set; after an interruption, the same command resumes."""
    from lensstudy.lensing.presets import LensingError, check_preset

    try:
        check_preset(preset)
    except LensingError as error:
        _fail(str(error))
    if layout not in ("lensstudy", "deeplense"):
        _fail(f"layout '{layout}' is unknown; there are lensstudy and deeplense")
    from lensstudy.data.croissant import write_data_card
    from lensstudy.data.dataset import DataError
    from lensstudy.data.reading import write_deeplense
    from lensstudy.data.simulation import simulate as make

    folder = out if layout == "lensstudy" else out.with_name(f"{out.name}-lensstudy")
    cores = processes or processors()
    options: dict = {"image_size": pixels, "noise_level": noise_level, "processes": cores, "progress": True}
    try:
        dataset = make(preset, per_class, seed=seed, folder=folder, **options)
        write_data_card(folder)
        if layout == "deeplense":
            write_deeplense(dataset, out)
    except (DataError, ValueError, OSError) as error:
        _fail(str(error))
    commands.echo(f"{len(dataset):,} images in {_shown(out)}; fingerprint {dataset.fingerprint}")


@app.command()
def networks() -> None:
    """List the networks that a study and `train` know, and those that come trained, and what each is for."""
    from lensstudy.networks.names import NETWORKS, SEARCHING

    for name, purpose in NETWORKS.items():
        commands.echo(f"{name:22} {purpose}")
    commands.echo(
        "\nAny group goes in front: c16-resnet, d6-steerable-cnn. With -matched or -matched-parameters behind, a name "
        "is the plain\nnetwork with as many channels or parameters. Networks of your own: docs/extending.md"
    )
    from lensstudy.deployment.choosing import listed
    from lensstudy.deployment.pretraining import cards

    try:
        trained = listed(cards())
    except ValueError as error:
        _fail(str(error))
    commands.echo(
        "\nTrained ones that come with the package: `lensstudy predict IMAGES` chooses the one that fits, --network "
        "NAME\nnames one, as does lensstudy.pretrained(NAME), and `lensstudy train --from NAME` fine-tunes it.\n\n"
        + trained
    )
    commands.echo("\nOnly with --network NAME, for a folder of lenses with their noise:\n")
    for name, purpose in SEARCHING.items():
        commands.echo(f"{name:22} {purpose}")


@app.command()
def presets() -> None:
    """List the presets of the simulator, and what each is for."""
    from lensstudy.lensing.presets import PRESETS

    for name, purpose in PRESETS.items():
        commands.echo(f"{name:16} {purpose}")
    commands.echo("\nIn a study, `preset: mixture` mixes several, and `population` changes what `realistic` draws.")


for command in (commands.train, commands.export, commands.predict, commands.fit_lens):
    app.command()(command)


def _contact_sheet(path: Path, sheet: Path, reading: dict) -> Path:
    """Six images of every class at `path`, evenly spaced, as a PNG."""
    import tempfile

    import numpy as np

    from lensstudy.data.reading import read
    from lensstudy.figures.data import examples
    from lensstudy.figures.style import png

    with tempfile.TemporaryDirectory() as folder:  # so that a large set is not held in memory
        images = read(path, folder=folder, **reading)
        rows = [np.flatnonzero(images.labels == k) for k in range(len(images.classes))]
        some = images.subset(np.concatenate([r[np.unique(np.linspace(0, len(r) - 1, 6).astype(int))] for r in rows]))
        drawn = png(examples(some, columns=6))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(sheet) as partial:
        partial.write_bytes(drawn)
    return sheet


def _members(study_file: Path) -> list[Path]:
    try:
        return members(study_file)
    except ParameterError as error:
        _fail(str(error))


def _study(study_file: Path) -> Study:
    try:
        return Study.read(study_file)
    except ParameterError as error:
        _fail(str(error))


def _check_names(study_file: Path, study: Study, networks: Iterable[str]) -> None:
    """Networks, presets and populations that are unknown end a command, most of them before heavy imports."""
    from lensstudy.lensing.presets import population_of
    from lensstudy.networks import names

    check_name: Callable[[str], None] = names.check_name
    components: list[dict[str, Any]] = [{"preset": study.preset, "population": study.population}]
    if study.preset == "mixture":
        given = study.population.get("presets")
        components = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    try:
        if not study.data_path:
            for one in components:
                population_of(one.get("preset", ""), one.get("population") or {})
        if study.plugins:
            from lensstudy.networks import registry

            registry.load_plugins(study.plugins)
            check_name = registry.check_name
        for network in (*networks, *study.settings):
            check_name(network)
        if study.preset == "mixture":
            from lensstudy.data.mixture import components_of

            components_of(study.preset, study.population, study.noise_level, study.data_seed)
    except ValueError as error:
        _fail(f"{study_file}: {error}")


def _damaged(study: Study) -> list[Path]:
    """The executed notebooks of a study that cannot be read any more, each of which is named."""
    from lensstudy.report.execution import read_executed

    pages = {*study.pages, *(f"03-train-{network}-s{seed}" for network in study.networks for seed in study.seeds)}
    damaged = []
    for file in sorted((study.folder / "notebooks").glob("*.ipynb")):
        try:
            if file.stem in pages:
                read_executed(file)
        except FileError as error:
            damaged.append(file)
            commands.echo(f"{error}; it is run again")
    return damaged


def _check_nodes(study_file: Path, study: Study) -> None:
    """A training on several machines that a run begins on this one would wait for the others for ever."""
    folders = (study.training_folder(network, seed, 100) for network in study.networks for seed in study.seeds)
    if study.nodes > 1 and not all((folder / "metrics.json").exists() for folder in folders):
        _fail(
            f"{study_file}: nodes = {study.nodes}: the cluster starts each such training, before this: srun --nodes "
            f"{study.nodes} --ntasks-per-node {study.devices} lensstudy fit {study_file} --network NAME --seed N"
        )


def _check_page(page: str) -> None:
    """Every page is made of the notebook of that name."""
    if not (notebooks_folder() / f"{page}.ipynb").exists():
        there = sorted(file.stem for file in notebooks_folder().glob("*.ipynb"))
        near = nearest(page, there)
        hint = f"did you mean '{near}'?" if near else f"there are {', '.join(there)}"
        _fail(f"page '{page}' is no notebook in {_shown(notebooks_folder())}; {hint}")


def _reports(study: Study) -> Path:
    return home() / "reports" / study.study


def _index(study: Study) -> Path:
    from lensstudy.report import index as report
    from lensstudy.report import listing

    index = report.write_index(study.folder, _reports(study), study=study)
    listing.write_study_list(home() / "reports")
    return index


def _write_front(study_file: Path, summary: Path, picture: Path) -> None:
    """The picture of a study that compares two networks, for the README."""
    if study_file.is_file() and summary.is_file():
        from lensstudy.figures import front
        from lensstudy.figures.style import png

        try:
            drawn = front.of_study(Study.read(study_file), json.loads(summary.read_text(encoding="utf-8")))
        except (ValueError, OSError) as error:  # a parameter file, a data set or a training that is damaged
            commands.echo(f"{study_file.stem}: no picture for the README ({error})", err=True)
            return
        if drawn is not None:
            picture.write_bytes(png(drawn))


def _shown(path: Path) -> str:
    """`path` as seen from the current folder, where that is shorter."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _fail(message: str) -> NoReturn:
    commands.echo(f"lensstudy: {message}", err=True)
    raise typer.Exit(1)


def _watch(job: subprocess.Popen, log: Path, study: Study) -> None:
    """A progress bar over the jobs of a run, with the time that is left and the trainings that are under way."""
    from tqdm import tqdm

    begin, shown = time.time(), ""
    with tqdm(desc=study.study, bar_format="{desc}: {n_fmt}/{total_fmt} jobs [{elapsed}]{postfix}") as bar:
        while job.poll() is None:
            time.sleep(1)
            jobs = running.Jobs(log.read_text(errors="replace"))
            bar.total, bar.n = jobs.total or None, jobs.done
            trained = running.under_way(study, begin)
            state = [f"{name} {n}/{of}" + (f" AUC {auc}" if auc else "") for name, (n, of, auc) in trained.items()]
            bar.set_postfix_str(", ".join(filter(None, [timing.left(study, jobs, begin), *state])), refresh=False)
            now = f"{bar.n}/{bar.total}{state}"
            if sys.stderr.isatty() or now != shown:  # a log file gets a line only when something happens
                bar.refresh()
            shown = now


def _failures(study: Study, text: str, log: Path) -> str:
    """What failed in a run: the message of each failed job, or the end of the run's log."""
    messages = list(dict.fromkeys(re.findall(r"^lensstudy: (.+(?:\n  .*)*)", text, re.M)))
    messages += [f"{name}: {why}" for name, why in running.failures(text).items() if "SLURM" in why]
    if not messages:
        messages = ["\n".join(text.strip().splitlines()[-15:])]
    return f"{study.study}: something failed.\n" + "\n".join(messages) + f"\nLog of the whole run: {_shown(log)}"
