# The order of the stages, and nothing else: which notebook needs which others.
#
# `lensstudy run params/X.yml` drives this file. A stage runs again when its notebook, the modules behind it, the stages
# before it, its data or the parameters of the groups it uses have changed, and only then. What a stage leaves in
# runs/X/dataset and runs/X/training is not declared here: Snakemake removes a declared file before a job runs again,
# and a training that is still what its parameters ask for must not be done twice.

from os.path import relpath
from pathlib import Path
from shlex import quote

from lensstudy.study import PAGES, Study
from lensstudy.provenance import data_state, imported_modules, module_files, plugin_files

study = Study.read(config["study"])
NOTEBOOKS = Path(config["notebooks"])
RUNS = f"runs/{study.study}"
REPORTS = f"reports/{study.study}"
FILE = quote(str(config["study"])).replace("{", "{{").replace("}", "}}")  # Snakemake formats every command
FIT = f"lensstudy fit {FILE}"


# Modules of one's own that register networks, and what they import from beside them.
PLUGINS = [file for name in study.plugins for file in plugin_files(name)]


def command(notebook):
    return f"lensstudy notebook {notebook} {FILE}"


def seen_from_here(files):
    """Paths with braces from the working folder: Snakemake takes those of the folders above it for wildcards."""
    return [relpath(file) if "{" in str(file) else file for file in files]


def source(notebook, *modules):
    files = [NOTEBOOKS / f"{notebook}.ipynb", *module_files("stages", "figures.plots", "figures.tables", *modules), *PLUGINS]
    return seen_from_here(files)


def values(*groups, of=study):
    """The parameters of the groups that a stage uses, so that a change of any other one does not run it again."""
    return {name: repr(value) for name, value in of.group(*groups).items()}


def values_of_training(wildcards, *groups):
    share = float(getattr(wildcards, "share", 100))
    training = study.training(wildcards.network, int(wildcards.seed), share)
    began = {"start_from": study.start_from.get(wildcards.network, "")}
    return values("data", "network", "training", *groups, of=training) | began


TRAININGS = ("data", "network", "comparison", "repetition", "training")


# Notebooks of one's own come after the analysis, or where a study has none, after the data.
OWN = [page for page in study.pages if page not in PAGES]
LAST = "04-analyse" if "04-analyse" in study.pages else "01-explore-data"


wildcard_constraints:
    own="|".join(OWN) or "none",
    network="[a-z0-9-]+",
    seed=r"\d+",
    share=r"[\d.]+",


# A smaller share of the images is trained without a page of its own; 04-analyse shows the learning curve.
FEWER = [f"{share:g}" for share in study.shares if share != 100]
# Without all images among the shares, nothing is trained on all of them.
WHOLE = study.seeds if 100 in study.shares else []


rule all:
    input:
        expand(f"{REPORTS}/{{page}}.html", page=[page for page in study.pages if page != "03-train"]),
        expand(f"{REPORTS}/03-train-{{network}}-s{{seed}}.html", network=study.networks, seed=WHOLE)
        if "03-train" in study.pages
        else [],


rule explore:
    input:
        source("01-explore-data", "figures.widgets"),
    output:
        f"{RUNS}/notebooks/01-explore-data.ipynb",
        f"{REPORTS}/01-explore-data.html",
    params:
        values("data", "exploration"),
        data_state(study, "data").digest,
    shell:
        command("01-explore-data")


rule build:
    input:
        source("02-build-models", "figures.widgets"),
        f"{RUNS}/notebooks/01-explore-data.ipynb",
    output:
        f"{RUNS}/notebooks/02-build-models.ipynb",
        f"{REPORTS}/02-build-models.html",
    params:
        values("data", "network", "comparison", "training"),
    shell:
        command("02-build-models")


rule train:
    input:
        source("03-train", "evaluation.overfitting"),
        f"{RUNS}/notebooks/01-explore-data.ipynb",
    output:
        f"{RUNS}/notebooks/03-train-{{network}}-s{{seed}}.ipynb",
        f"{REPORTS}/03-train-{{network}}-s{{seed}}.html",
    params:
        lambda wildcards: values_of_training(wildcards, "diagnostics"),
    threads: study.threads * study.devices
    priority: 10
    shell:
        command("03-train") + " --network {wildcards.network} --seed {wildcards.seed}"


rule train_share:
    input:
        seen_from_here([*module_files("stages"), *PLUGINS]),
        f"{RUNS}/notebooks/01-explore-data.ipynb",
    output:
        touch(f"{RUNS}/trained/{{network}}-s{{seed}}-{{share}}pct"),
    params:
        lambda wildcards: values_of_training(wildcards),
    threads: study.threads * study.devices
    priority: 5
    shell:
        FIT + " --network {wildcards.network} --seed {wildcards.seed} --share {wildcards.share}"


rule analyse:
    input:
        source("04-analyse", "evaluation.analysis", "figures.analysis_tables", "figures.widgets"),
        expand(f"{RUNS}/notebooks/03-train-{{network}}-s{{seed}}.ipynb", network=study.networks, seed=WHOLE),
        expand(f"{RUNS}/trained/{{network}}-s{{seed}}-{{share}}pct", network=study.networks, seed=study.seeds, share=FEWER),
    output:
        f"{RUNS}/notebooks/04-analyse.ipynb",
        f"{REPORTS}/04-analyse.html",
    params:
        values(*TRAININGS, "analysis"),
    shell:
        command("04-analyse")


rule choose:
    input:
        seen_from_here([*module_files("stages", "training.tuning"), *PLUGINS]),
        f"{RUNS}/notebooks/01-explore-data.ipynb",
    output:
        touch(f"{RUNS}/chosen/{{network}}"),
    params:
        lambda wildcards: values("data", "network", "training", "improvement", of=study.training(wildcards.network)),
    threads: study.threads * study.devices
    priority: 5
    shell:
        FIT + " --network {wildcards.network} --choose"


rule improve:
    input:
        source("05-improve", "evaluation.improvement", "evaluation.settings"),
        f"{RUNS}/notebooks/01-explore-data.ipynb",
        expand(f"{RUNS}/chosen/{{network}}", network=study.networks),
    output:
        f"{RUNS}/notebooks/05-improve.ipynb",
        f"{REPORTS}/05-improve.html",
    params:
        values("data", "network", "comparison", "training", "improvement"),
    threads: study.threads * study.devices
    shell:
        command("05-improve")


rule apply:
    input:
        source("08-apply", "deployment.application", "deployment.exporting"),
        f"{RUNS}/notebooks/04-analyse.ipynb",
    output:
        f"{RUNS}/notebooks/08-apply.ipynb",
        f"{REPORTS}/08-apply.html",
    params:
        values(*TRAININGS, "application"),
        data_state(study, "application").digest,
    shell:
        command("08-apply")


rule validate:
    input:
        source("06-validate-on-real-lenses", "observations.validation", "observations.sample"),
        f"{RUNS}/notebooks/04-analyse.ipynb",
    output:
        f"{RUNS}/notebooks/06-validate-on-real-lenses.ipynb",
        f"{REPORTS}/06-validate-on-real-lenses.html",
    params:
        values(*TRAININGS, "observations"),
        data_state(study, "observations").digest,
    shell:
        command("06-validate-on-real-lenses")


rule known_subhalo:
    input:
        source("07-known-subhalo", "observations.known_subhalo"),
        f"{RUNS}/notebooks/04-analyse.ipynb",
    output:
        f"{RUNS}/notebooks/07-known-subhalo.ipynb",
        f"{REPORTS}/07-known-subhalo.html",
    params:
        values(*TRAININGS, "observations"),
        data_state(study, "observations").digest,
    shell:
        command("07-known-subhalo")


rule published:
    input:
        source("10-published-networks", "deployment.published", "deployment.pretraining", "evaluation.rotation"),
        f"{RUNS}/notebooks/01-explore-data.ipynb",
    output:
        f"{RUNS}/notebooks/10-published-networks.ipynb",
        f"{REPORTS}/10-published-networks.html",
    params:
        values("data", "published"),
        data_state(study, "published").digest,
    shell:
        command("10-published-networks")


rule own:
    input:
        lambda wildcards: source(wildcards.own, *imported_modules(NOTEBOOKS / f"{wildcards.own}.ipynb")),
        f"{RUNS}/notebooks/{LAST}.ipynb",
    output:
        f"{RUNS}/notebooks/{{own}}.ipynb",
        f"{REPORTS}/{{own}}.html",
    params:
        values(*Study.groups()),
    shell:
        command("{wildcards.own}")
