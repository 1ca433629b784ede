"""Better settings, found on the validation part only: every combination of a few, one change at a time, and a search.

Every network gets the same number of trials over the same space. The test part is taken away before anything starts, so
that no trial can see it. Trials are kept in a file as they end: a search that was interrupted goes on, and any number
of processes and machines that share a disk work on it together. A process holds the lock of a file for each trial while
it trains: nobody does that trial again, and the lock ends with the process, so that what a killed one began is taken
over by another. The best of many trials is better by luck too (the winner's curse), so
what it promises is worth nothing until new seeds have confirmed it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from tqdm.auto import tqdm

from lensstudy.data.dataset import LensDataset
from lensstudy.files import whole_file
from lensstudy.progress import in_batch
from lensstudy.provenance import code_hash
from lensstudy.study import ParameterError, Study, home
from lensstudy.training.fitting import NO_PART, SIMULATOR, TrainingDiverged, fit
from lensstudy.training.run import read_metrics

__all__ = [
    "all_alternatives",
    "all_combinations",
    "all_importances",
    "all_searches",
    "all_trials",
    "alone_with",
    "alternatives",
    "best_combination",
    "best_settings",
    "combinations",
    "importances",
    "search",
    "search_of",
    "trials",
    "write_best",
]

BEST = "best combination"
SEED = 1_000  # of every trial, so that trials differ by their settings alone; no study needs this one
DONE = TrialState.COMPLETE, TrialState.PRUNED
LOOK_AGAIN_S = 2.0  # until a process with nothing left to begin asks whether the others have ended


def search_of(study: Study, dataset: LensDataset, network: str) -> optuna.Study:
    """The search over the settings of one network, begun or taken up again: maximises the validation AUC of the best
    checkpoint, and gives up trials that are below the median of the others at the same epoch. Another data set, space
    or setting of the study makes it another search."""
    _claims(study).mkdir(parents=True, exist_ok=True)
    place = study.search_storage
    storage = place if "://" in place else JournalStorage(JournalFileBackend(str(_trials_file(study))))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=f"{study.study}/{network}/{_fingerprint(study, dataset)}",
        storage=storage,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=study.search_epochs // 3),
        load_if_exists=True,
    )


def search(
    study: Study, dataset: LensDataset, network: str, watch: Callable[[optuna.Study], None] | None = None
) -> optuna.Study:
    """Search for better settings on the validation part, until `study.trials` trials are done.

    Args:
        study: the study; `search_space` says what varies.
        dataset: its data set; the test part is not opened.
        network: the network to tune.
        watch: shown the search after each trial.

    Returns:
        The Optuna study.

    Raises:
        ParameterError: for a space that holds no parameter of a training.

    Example:
        >>> from lensstudy import Study
        >>> Study(search_space={"learning_rate": [0.001, 0.02]}).trials  # search(study, dataset, "d4-steerable-cnn")
        2
    """
    _check_space(study, "search_space", study.search_space)
    search, unseen = search_of(study, dataset, network), _without_test(dataset)
    while len(search.get_trials(states=DONE)) < study.trials:
        begun = _begin(search, study, network)
        if begun is None:  # the last trials run elsewhere
            time.sleep(LOOK_AGAIN_S)
            continue
        trial, claim = begun
        with claim:
            try:
                search.tell(trial, _validation_auc(trial, study, unseen, network))
            except optuna.TrialPruned:
                search.tell(trial, state=TrialState.PRUNED)
            except Exception:
                search.tell(trial, state=TrialState.FAIL)
                raise
            Path(claim.lock_file).unlink(missing_ok=True)
        if watch:
            watch(search)
    return search


def _begin(search: optuna.Study, study: Study, network: str) -> tuple[optuna.Trial, FileLock] | None:
    """The next trial and the lock that this process holds on it; None where as many as are wanted have ended or run."""
    with FileLock(_claims(study) / "begin.lock"):  # one process at a time looks and decides
        running = [
            trial for trial in search.get_trials(states=(TrialState.RUNNING,)) if not _taken_over(search, study, trial)
        ]
        there = search.get_trials(states=(*DONE, TrialState.WAITING)) + running
        if len(search.get_trials(states=DONE)) + len(running) >= study.trials:
            return None
        # The study as it stands is one of the trials, so that a search is never worse than no search.
        training = study.training(network, SEED)
        own = {name: getattr(training, name) for name in study.search_space}
        tried = any(own in (trial.params, trial.system_attrs.get("fixed_params")) for trial in there)
        if not tried and all(_contains(study.search_space[name], value) for name, value in own.items()):
            search.enqueue_trial(own)
        trial = search.ask()
        claim = _claim(search, study, trial.number)
        claim.acquire()
    # By its number: whoever takes a search up again, or works beside another, must not propose the same again.
    search.sampler = optuna.samplers.TPESampler(
        seed=study.seed + trial.number, n_startup_trials=max(study.trials // 3, 2), constant_liar=True
    )
    return trial, claim


def _taken_over(search: optuna.Study, study: Study, trial: FrozenTrial) -> bool:
    """Whether the process of a running trial is gone; the settings of that trial then wait to be tried again. One that
    was begun on another disk has no lock here and is not waited for."""
    claim = _claim(search, study, trial.number)
    if not Path(claim.lock_file).exists():
        return True
    try:
        with claim.acquire(timeout=0):
            search.tell(trial.number, state=TrialState.FAIL)
            if settings := trial.params or trial.system_attrs.get("fixed_params"):
                search.enqueue_trial(settings)
            Path(claim.lock_file).unlink()
            return True
    except Timeout:
        return False


def _trials_file(study: Study) -> Path:
    place = study.search_storage
    return home() / place if place and "://" not in place else study.folder / "improvement" / "trials.log"


def _claims(study: Study) -> Path:
    """The folder with the locks, beside the file of the trials."""
    file = _trials_file(study)
    return file.with_name(f"{file.name}.claims")


def alone_with(study: Study, folder: Path) -> FileLock:
    """The lock to train in a `folder` of the improvement, so that of two processes one waits and finds it finished."""
    _claims(study).mkdir(parents=True, exist_ok=True)
    return FileLock(_claims(study) / f"{folder.name}.lock")


def _claim(search: optuna.Study, study: Study, number: int) -> FileLock:
    return FileLock(_claims(study) / f"{search.study_name.replace('/', '-')}-{number}.lock")


def trials(search: optuna.Study) -> pd.DataFrame:
    """One row a trial: `number`, its parameters, `auc` (of the last epoch it reached, if given up) and `state`."""
    rows = [
        {"number": t.number}
        | t.params
        | {
            "auc": t.value if t.value is not None else t.intermediate_values.get(t.last_step or 0),
            "state": t.state.name.lower(),
        }
        for t in search.get_trials(states=DONE)
    ]
    return pd.DataFrame(rows)


def importances(search: optuna.Study) -> dict[str, float]:
    """Share of the variance of the validation AUC that each parameter explains (fANOVA, Hutter et al. 2014); empty
    with fewer than four complete trials, of which nothing can be said."""
    complete = search.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < 4 or len({trial.value for trial in complete}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
    return optuna.importance.get_param_importances(search, evaluator=evaluator)


def best_settings(study: Study, search: optuna.Study, network: str) -> Study:
    """The study with the parameters of the best trial, for this network. Raises `ParameterError` if no trial reached
    its end."""
    if not search.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        raise ParameterError(f"{network}: every trial diverged or was given up; lower the rates in search_space")
    own = study.training(network, study.seed, study.share).model_dump()
    return Study.of(own | search.best_params | {"networks": [network]}, "the best trial")


def write_best(study: Study, best: Study) -> Path:
    """Write `best` as `params/<study>-best.yml`, naming what differs from the defaults. Returns the file."""
    name = f"{study.study}-best"
    file = home() / "params" / f"{name}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Found by 05-improve on the validation part of '{study.study}'; the test part had no say.\n"
    content = {"study": name, "question": study.question} | best.changes()
    with whole_file(file) as partial:
        partial.write_text(head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def combinations(study: Study, dataset: LensDataset, network: str) -> pd.DataFrame:
    """Train every combination of `study.grid` for `search_epochs`, all else and the seed equal: one row each, with its
    settings, `auc` and `loss` on the validation part (empty where it diverged) and the run `folder`."""
    _check_space(study, "grid", study.grid)
    every = [dict(zip(study.grid, values, strict=True)) for values in itertools.product(*study.grid.values())]
    trained = _trained(study, _without_test(dataset), network, every)
    return pd.DataFrame([changes | one for changes, one in zip(every, trained, strict=True)])


def alternatives(study: Study, dataset: LensDataset, network: str) -> pd.DataFrame:
    """The best combination of `study.grid`, and each of `study.alternatives` in its place: validation AUC and loss, at
    equal seed and, but for a change of `epochs`, for `search_epochs`. One row a training, the best combination first;
    the columns of `combinations` beside `settings` and the `difference` in AUC."""
    base, every = best_combination(study, dataset, network), [{}, *study.alternatives]
    trained = _trained(study, _without_test(dataset), network, [base | changes for changes in every])
    labels = [_in_words(changes) or BEST for changes in every]
    table = pd.DataFrame([{"settings": label} | one for label, one in zip(labels, trained, strict=True)])
    return table.assign(difference=table["auc"] - table["auc"].iloc[0])


def best_combination(study: Study, dataset: LensDataset, network: str) -> dict[str, Any]:
    """The settings of the combination with the highest validation AUC; of none where all diverged."""
    ended = [row for row in combinations(study, dataset, network).to_dict("records") if row["folder"]]
    best = max(ended, key=lambda row: row["auc"], default={})
    return {name: value for name, value in best.items() if name in study.grid}


def _trained(study: Study, dataset: LensDataset, network: str, every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Validation `auc` and `loss` of a training with each of these changes, and its run `folder`. Several processes
    share the work: each does first what no other is doing."""
    found: dict[int, dict[str, Any]] = {}
    for patience in (0, -1):  # at last, wait for what the others do
        for number, changes in enumerate(every):
            folder = study.folder / "improvement" / "alternatives" / f"{network}-{_file_name(_in_words(changes))}"
            if number not in found:
                with suppress(Timeout), alone_with(study, folder).acquire(timeout=patience):
                    found[number] = _trained_in(folder, study, dataset, network, changes)
    return [found[number] for number in range(len(every))]


def _trained_in(
    folder: Path, study: Study, dataset: LensDataset, network: str, changes: dict[str, Any]
) -> dict[str, Any]:
    settings = study.training(network, SEED).model_dump() | {"epochs": study.search_epochs} | changes
    try:
        metrics = read_metrics(fit(dataset, Study.of(settings, _in_words(changes)), folder=folder))
    except TrainingDiverged:
        return {"auc": None, "loss": None, "folder": ""}
    return {"auc": metrics["validation_auc"], "loss": metrics["validation_loss"], "folder": str(folder)}


def _in_words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changes.items())


def all_combinations(study: Study, dataset: LensDataset) -> pd.DataFrame:
    """`combinations` of every network of the study in one table, the network in its first column."""
    networks = tqdm(study.networks, desc="combinations", unit="network", disable=in_batch())
    return _joined({name: combinations(study, dataset, name) for name in networks})


def all_alternatives(study: Study, dataset: LensDataset) -> pd.DataFrame:
    """`alternatives` of every network of the study in one table, the network in its first column."""
    networks = tqdm(study.networks, desc="alternatives", unit="network", disable=in_batch())
    return _joined({name: alternatives(study, dataset, name) for name in networks})


def all_searches(study: Study, dataset: LensDataset) -> dict[str, optuna.Study]:
    """The finished `search` of every network of the study, by the network's name; a bar shows the trials."""
    found = {}
    with tqdm(total=study.trials * len(study.networks), desc="search", unit="trial", disable=in_batch()) as bar:
        for name in study.networks:
            bar.set_postfix(network=name)
            before = bar.n

            def shown(one: optuna.Study, before: int = before) -> None:
                bar.update(before + len(one.get_trials(states=DONE)) - bar.n)  # those of other processes too

            found[name] = search(study, dataset, name, watch=shown)
    return found


def all_trials(searches: Mapping[str, optuna.Study]) -> pd.DataFrame:
    """The `trials` of every search in one table, the network in its first column."""
    return _joined({name: trials(one) for name, one in searches.items()})


def all_importances(searches: Mapping[str, optuna.Study]) -> pd.DataFrame:
    """The `importances` of every search of which something can be said: one row a network, one column a setting."""
    found = {name: values for name, one in searches.items() if (values := importances(one))}
    return pd.DataFrame.from_dict(found, orient="index")


def _joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, names=["network"]).reset_index(level=0).reset_index(drop=True)


def _validation_auc(trial: optuna.Trial, study: Study, dataset: LensDataset, network: str) -> float:
    chosen = {name: _suggest(trial, name, values) for name, values in study.search_space.items()}
    settings = study.training(network, SEED).model_dump() | {"epochs": study.search_epochs} | chosen
    settings = Study.of(settings, f"trial {trial.number}")

    def watch(history: pd.DataFrame) -> None:
        trial.report(history["validation_auc"].iloc[-1], len(history))
        if trial.should_prune():
            raise optuna.TrialPruned

    name = f"{network}-{trial.study.study_name.rpartition('/')[2]}-{trial.number}"
    try:
        folder = fit(dataset, settings, folder=study.folder / "improvement" / "trials" / name, watch=watch)
        return read_metrics(folder)["validation_auc"]
    except TrainingDiverged as problem:
        raise optuna.TrialPruned(str(problem)) from None


def _fingerprint(study: Study, dataset: LensDataset) -> str:
    """What all trials of one search have in common."""
    varied = {
        "study",
        "question",
        "pages",
        "trials",
        "new_seeds",
        "alternatives",
        "grid",
        "seed",
        "seeds",
        "network",
        "networks",
    }
    fixed = {name: value for name, value in study.model_dump().items() if name not in varied}
    without = NO_PART if study.fresh_images else (*NO_PART, *SIMULATOR)
    told = json.dumps([fixed, dataset.fingerprint, code_hash("training.fitting", without=without)], default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:10]


def _suggest(trial: optuna.Trial, name: str, values: list) -> Any:
    if _is_range(values):
        low, high = values
        return trial.suggest_float(name, low, high, log=low > 0 and high / low >= 5)
    return trial.suggest_categorical(name, values)


def _is_range(values: list) -> bool:
    """Two numbers, the lower first, at least one with a decimal point that makes it no choice of integers."""
    return len(values) == 2 and all(isinstance(value, float) for value in values) and values[0] < values[1]


def _contains(values: list, value: Any) -> bool:
    return values[0] <= value <= values[1] if _is_range(values) else value in values


def _check_space(study: Study, where: str, space: Mapping[str, list]) -> None:
    for name, values in space.items():
        if name not in Study.model_fields:
            raise ParameterError(f"{where}: no study has a parameter '{name}'")
        if not values:
            raise ParameterError(f"{where}: '{name}' has no values; give [lowest, highest] or choices")
        for value in values:
            Study.of(study.model_dump() | {name: value}, f"{where}, {name}")


def _without_test(dataset: LensDataset) -> LensDataset:
    return dataset.subset((dataset.catalogue["part"] != "test").to_numpy())


def _file_name(label: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in label)
