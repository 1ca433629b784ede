# The order of the stages, and nothing else: which notebook needs which files, and what it leaves behind.
#
# `lensstudy run params/X.yml` drives this file. A stage runs again when its notebook, the modules it uses, the files it
# reads or the parameters in its own `parameters` cell have changed, and only then.

from pathlib import Path

from lensstudy.parameters import Study, notebook_parameters

study = Study.read(config["study"])
NOTEBOOKS = Path(config["notebooks"])
PACKAGE = Path(config["package"])
RUNS = f"runs/{study.study}"
REPORTS = f"reports/{study.study}"
DATA = (
    "parameters stages dataset archive containers formats filtering baselines simulate raytracing population lensing "
    "instrument"
).split()
LEARNING = "parameters stages dataset symmetry layers networks training".split()


def source(notebook, *modules):
    return [NOTEBOOKS / f"{notebook}.ipynb", *(PACKAGE / f"{module}.py" for module in dict.fromkeys(modules))]


def values(notebook, **fixed):
    """The parameters that this notebook declares, so that a change of any other one does not run it again."""
    declared = notebook_parameters(NOTEBOOKS / f"{notebook}.ipynb")
    return {name: repr(getattr(study, name)) for name in declared if name not in ("network", "seed")}



wildcard_constraints:
    network="[a-z0-9-]+",
    seed=r"\d+",


rule all:
    input:
        expand(f"{REPORTS}/{{page}}.html", page=["01-explore-data", "02-build-models", "04-analyse"]),
        expand(f"{REPORTS}/03-train-{{network}}-s{{seed}}.html", network=study.networks, seed=study.seeds),


rule explore:
    input:
        source("01-explore-data", *DATA),
    output:
        f"{RUNS}/dataset/dataset.json",
        f"{RUNS}/notebooks/01-explore-data.ipynb",
        f"{REPORTS}/01-explore-data.html",
    params:
        values("01-explore-data"),
    shell:
        f"lensstudy notebook 01-explore-data {config['study']}"


rule build:
    input:
        source("02-build-models", "symmetry", "networks"),
        f"{RUNS}/dataset/dataset.json",
    output:
        f"{RUNS}/networks.json",
        f"{RUNS}/notebooks/02-build-models.ipynb",
        f"{REPORTS}/02-build-models.html",
    params:
        values("02-build-models"),
    shell:
        f"lensstudy notebook 02-build-models {config['study']}"


rule train:
    input:
        source("03-train", *LEARNING),
        f"{RUNS}/dataset/dataset.json",
    output:
        f"{RUNS}/training/{{network}}-s{{seed}}/metrics.json",
        f"{RUNS}/notebooks/03-train-{{network}}-s{{seed}}.ipynb",
        f"{REPORTS}/03-train-{{network}}-s{{seed}}.html",
    params:
        values("03-train"),
    priority: 10
    shell:
        f"lensstudy notebook 03-train {config['study']} --network {{wildcards.network}} --seed {{wildcards.seed}}"


rule analyse:
    input:
        source("04-analyse", *LEARNING, "evaluation"),
        expand(f"{RUNS}/training/{{network}}-s{{seed}}/metrics.json", network=study.networks, seed=study.seeds),
    output:
        f"{RUNS}/analysis/summary.json",
        f"{RUNS}/notebooks/04-analyse.ipynb",
        f"{REPORTS}/04-analyse.html",
    params:
        values("04-analyse"),
    shell:
        f"lensstudy notebook 04-analyse {config['study']}"
