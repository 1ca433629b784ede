"""What can be set in a study, in one typed and flat schema.

A study is one YAML file of `params/`. Its keys are the fields of `Study`, and they carry the same names in the
notebooks' `parameters` cells and in the reports. The defaults are those of the `smoke` study, which takes seconds.
Unknown keys, wrong types and values out of range are errors before anything runs.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lensstudy.text import nearest

__all__ = ["PAGES", "ParameterError", "Study", "home", "notebook_parameters"]


class ParameterError(ValueError):
    """A parameter that the study cannot use; the message says which, why, and what would do."""


PAGES = (
    "01-explore-data",
    "02-build-models",
    "03-train",
    "04-analyse",
    "05-improve",
    "06-validate-on-real-lenses",
    "07-apply",
)


class Study(BaseModel):
    """Every parameter of a study. Sizes are in pixels, angles in degrees, noise in units of an image's peak."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    study: str = Field(
        "smoke", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the study and its folders"
    )
    pages: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")]] = Field(
        ["01-explore-data", "02-build-models", "03-train", "04-analyse"],
        min_length=1,
        description="notebooks that `lensstudy run` goes through",
    )
    question: str = Field(
        "Does a network that knows rotations and reflections tell dark matter apart better than one that does not?",
        description="the question on top of every report",
    )

    # data
    data_path: str = Field("", description="folder, tar or zip with one folder a class; empty: simulate")
    preset: str = Field("model_3", description="recipe of the simulated images; mixture: several, listed in population")
    population: dict[str, Any] = Field({}, description="changes to the recipe's population")
    images_per_class: int = Field(60, ge=10, description="simulated images of each class")
    image_size: int = Field(32, ge=16, le=1024, description="pixels along one side of a simulated image")
    noise_level: float = Field(
        0.02, ge=0, le=10, description="noise in units of each image's peak; 0: the recipe's own"
    )
    data_seed: int = Field(1, ge=0, description="seed of the images and of the split")
    filtering: dict[str, Any] = Field(
        {}, description="changes to the thresholds by which read images are excluded; null leaves a rule out"
    )
    preset_images: int = Field(30, ge=10, description="images of each class for the comparison of recipes")
    test_fraction: float = Field(0.1, gt=0, lt=1, description="share of the images kept for the test")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="share of the rest on which epochs are chosen")

    # what a network sees
    crop: int = Field(0, ge=0, description="central pixels shown to the networks; 0: as many as keep exact symmetry")
    binning: int = Field(
        1, ge=1, le=8, description="pixels along each side averaged into one before a network sees them"
    )
    scaling: Literal["none", "min-max", "maximum", "asinh", "z-score"] = Field(
        "asinh", description="how brightness is stretched"
    )

    # networks
    networks: list[str] = Field(["d4-steerable-cnn", "resnet18"], min_length=1, description="networks to compare")
    network: str = Field("d4-steerable-cnn", description="the network of one training")
    width: float = Field(1.0, gt=0, le=16, description="channels, as a multiple of each network's own number")
    depth: int = Field(1, ge=1, le=8, description="convolutions or blocks in place of each of the network's own")
    kernel_sizes: list[int] = Field([], description="sizes of the network's filters, one a stage; empty: its own")

    # training, the same for every network
    seeds: list[int] = Field(
        [1], min_length=1, description="seeds of weights, order and augmentation, one training each"
    )
    seed: int = Field(1, ge=0, description="the seed of one training")
    shares: list[float] = Field(
        [100.0], min_length=1, description="percent of the training images, for learning curves; nested subsets"
    )
    share: float = Field(100.0, gt=0, le=100, description="percent of the training images of one training")
    epochs: int = Field(2, ge=1, description="passes over the training images; a share of them is shown as many steps")
    batch_size: int = Field(32, ge=1, description="images in one step")
    accumulate: int = Field(1, ge=1, description="batches whose gradients are averaged before one step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with Nesterov momentum 0.9")
    learning_rate: float = Field(0.003, gt=0, le=10, description="highest learning rate of the schedule")
    learning_rates: dict[str, float] = Field(
        {}, description="highest rates of single networks, chosen on validation; the others take learning_rate"
    )
    weight_decay: float = Field(0.01, ge=0, description="weight decay, decoupled from the gradient in AdamW")
    gradient_clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0: no clipping")
    schedule: Literal["one-cycle", "cosine", "step", "plateau", "constant"] = Field(
        "one-cycle", description="decay of the learning rate"
    )
    warmup_fraction: float = Field(0.2, ge=0, lt=1, description="share of the steps in which the rate rises")
    decay_factor: float = Field(0.1, gt=0, lt=1, description="what step and plateau multiply the rate with")
    decay_patience: int = Field(2, ge=0, description="epochs without progress before plateau lowers the rate")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the label spread over all classes")
    averaging: Literal["none", "ema", "swa"] = Field(
        "none", description="average of the weights: exponential over steps, or equal over the last epochs"
    )
    averaging_decay: float = Field(0.99, gt=0, lt=1, description="memory of the exponential average, per step")
    averaging_start: float = Field(0.75, ge=0, lt=1, description="share of the training after which swa averages")
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = Field(
        "32-true", description="arithmetic of the training; the mixed ones need a GPU"
    )
    threads: int = Field(1, ge=1, description="processor threads of one training")
    accelerator: Literal["auto", "cpu", "gpu"] = Field("auto", description="what a training runs on")
    devices: int = Field(1, ge=1, description="GPUs, or processes on processors, of one training on each node")
    nodes: int = Field(1, ge=1, description="machines of one training")
    strategy: str = Field("auto", description="how several devices work together, in Lightning's words")
    augmentation: bool = Field(True, description="turn by any angle and reflect at random while training")
    patience: int = Field(0, ge=0, description="epochs without progress before training stops; 0: never")
    monitor: Literal["validation_loss", "validation_auc", "last"] = Field(
        "validation_loss", description="what chooses the epoch that is kept; last: the last one, whatever it is"
    )
    fresh_images: int = Field(
        0, ge=0, description="images simulated anew for each epoch, in place of the training part; 0: none"
    )
    curriculum: list[list[float]] = Field(
        [], description="with fresh images: [epochs, factor on the substructure's mass, factor on the photons], ..."
    )
    range_test_steps: int = Field(20, ge=10, description="steps of the learning-rate range test of 03-train")

    # analysis
    random_turns: int = Field(1, ge=1, description="random angles at which every test image is shown")
    orientations: int = Field(
        8, ge=2, le=360, description="angles, all round, over which the worst case of an answer is taken"
    )
    view_shift: float = Field(2.0, ge=0, description="pixels by which the test images are shifted for a view")
    view_noise: float = Field(2.0, gt=1, description="noise of a view of the test images, as a multiple of their own")
    view_blur: float = Field(2.0, gt=0, description="FWHM in pixels of the PSF that a view puts on top")
    view_zoom: float = Field(1.1, gt=0.2, lt=5, description="size of the lens in a view, as a multiple of its own")
    bootstrap_samples: int = Field(200, ge=50, description="resamplings of the test images for an interval")

    # improvement, on the validation part only
    trials: int = Field(2, ge=1, description="trials of each network in 05-improve")
    search_epochs: int = Field(1, ge=1, description="epochs of one trial")
    search_space: dict[str, list] = Field(
        {"learning_rate": [0.001, 0.02], "width": [0.25, 0.5]},
        description="parameters that trials vary: [lowest, highest] of a number with a decimal point, else choices",
    )
    search_storage: str = Field("", description="file or URL that several machines share for the search; empty: a file")
    alternatives: list[dict[str, Any]] = Field(
        [{"optimizer": "sgd"}], description="changes of one setting each, trained beside the study's own settings"
    )
    new_seeds: list[int] = Field(
        [101], min_length=1, description="seeds that confirm an improvement; no trial had them"
    )

    # real lenses
    observations_path: str = Field(
        "", description="folder of real cutouts, FITS or HDF5; empty: simulated ones, written as FITS"
    )
    run_folders: list[str] = Field([], description="run folders to put beside this study's own")
    reference_images: int = Field(
        60, ge=50, description="simulated images of each class that say what a network is familiar with"
    )
    noise_draws: int = Field(12, ge=4, description="draws of noise for smooth twins and for each mass put in")
    abstain_below: float = Field(
        0.01, gt=0, lt=0.5, description="p-value of an image below which a network's answer does not count"
    )

    # application
    apply_to: str = Field(
        "", description="your own images, as a file, folder, archive or pattern; empty: the test part of the study"
    )
    apply_pixel_scale: float = Field(
        0.0, ge=0, description="arcseconds of one pixel of these images, where the files do not say; 0: unknown"
    )
    apply_turns: int = Field(1, ge=1, description="orientations of each of these images to average over, evenly spaced")

    @field_validator("networks", "seeds", "shares", "new_seeds")
    @classmethod
    def _each_once(cls, values: list) -> list:
        if repeated := sorted({str(value) for value in values if values.count(value) > 1}):
            raise ValueError(f"{', '.join(repeated)} stands there twice, which is no second training")
        if wrong := [value for value in values if isinstance(value, int) and value < 0]:
            raise ValueError(f"{wrong[0]} is no seed; they start at 0")
        return values

    @field_validator("shares")
    @classmethod
    def _percent(cls, values: list[float]) -> list[float]:
        if wrong := [value for value in values if not 0 < value <= 100]:
            raise ValueError(f"{wrong[0]} is no share; expected percent, more than 0 and at most 100")
        return values

    @field_validator("learning_rates")
    @classmethod
    def _rates(cls, values: dict[str, float]) -> dict[str, float]:
        for network, rate in values.items():
            if not 0 < rate <= 10:
                raise ValueError(f"{network}: {rate} is no learning rate; expected more than 0 and at most 10")
        return values

    @field_validator("curriculum")
    @classmethod
    def _phases(cls, phases: list[list[float]]) -> list[list[float]]:
        for phase in phases:
            if len(phase) != 3 or min(phase) <= 0 or phase[0] != int(phase[0]):
                raise ValueError(
                    f"{phase} is no phase; expected [whole epochs, factor on mass, factor on photons], all above 0"
                )
        return phases

    @field_validator("population", "filtering")
    @classmethod
    def _numbers_are_no_text(cls, values: dict) -> dict:
        for name, value in values.items():
            if isinstance(value, dict) and name == "population":
                cls._numbers_are_no_text(value)
            elif name == "recipes" and isinstance(value, list) and all(isinstance(one, dict) for one in value):
                for one in value:
                    cls._numbers_are_no_text(one)
            elif not isinstance(value, str | bool | int | float | None):
                raise ValueError(f"{name} = {value!r} is neither a number, a text nor true or false")
            if isinstance(value, str) and (number := _as_number(value)) is not None:
                raise ValueError(f"{name} = {value!r} is text for YAML; write {_yaml_number(number)}")
        return values

    @field_validator("study")
    @classmethod
    def _not_reference(cls, name: str) -> str:
        if name == "reference":
            raise ValueError("reports/reference holds the committed reports; choose another name")
        return name

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "parameters") -> Study:
        """Check `values`; `where` names their source in an error. Raises `ParameterError`."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ParameterError(f"{where}: " + "; ".join(map(_explain, error.errors()))) from None

    @classmethod
    def read(cls, file: str | Path) -> Study:
        """The study of one YAML file; without a key `study` it is named after the file. Raises `ParameterError`."""
        file = Path(file)
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ParameterError(f"{file}: cannot be read ({error.strerror}); params/ holds the studies") from None
        except yaml.YAMLError as error:
            raise ParameterError(f"{file}: is no valid YAML: {error}") from None
        if not isinstance(values, dict):
            raise ParameterError(f"{file}: holds no 'name: value' lines; params/smoke.yml shows all of them")
        return cls.of({"study": file.stem, **values}, str(file))

    @classmethod
    def here(cls, namespace: Mapping[str, Any]) -> Study:
        """The parameters that a notebook has set: `parameters = Study.here(globals())`."""
        return cls.of({name: namespace[name] for name in cls.model_fields if name in namespace}, "this notebook")

    @property
    def folder(self) -> Path:
        """`runs/<study>`, where the stages of this study leave their files."""
        return home() / "runs" / self.study

    def training_folder(self, network: str | None = None, seed: int | None = None, share: float | None = None) -> Path:
        """The run folder of one training, such as `d4-steerable-cnn-s1` or `resnet18-s2-3pct`."""
        share = self.share if share is None else share
        percent = "" if share == 100 else f"-{share:g}pct"
        return self.folder / "training" / f"{network or self.network}-s{self.seed if seed is None else seed}{percent}"

    def training(self, network: str, seed: int, share: float = 100.0) -> Study:
        """The parameters of one training of this study."""
        return self.model_copy(update={"network": network, "seed": seed, "share": float(share)})

    @property
    def highest_rate(self) -> float:
        """Highest learning rate of `network`."""
        return self.learning_rates.get(self.network, self.learning_rate)

    def changes(self) -> dict[str, Any]:
        """The parameters that differ from the defaults, `study` and `question` aside."""
        defaults = Study()
        return {
            name: value
            for name, value in self.model_dump().items()
            if value != getattr(defaults, name) and name not in ("study", "question")
        }


def home() -> Path:
    """The folder that holds `runs/` and `reports/`: `LENSSTUDY_HOME`, else the nearest folder upwards from here with
    `notebooks/` and `params/`, else the current one."""
    if given := os.environ.get("LENSSTUDY_HOME"):
        return Path(given).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def notebook_parameters(notebook: str | Path) -> dict[str, Any]:
    """The names that a notebook's `parameters` cell assigns, with their defaults."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = ("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    source = next(tagged, "")
    lines: list[Any] = [line for line in ast.parse(source).body if isinstance(line, ast.AnnAssign)]
    return {line.target.id: ast.literal_eval(line.value) for line in lines}


def _explain(problem: Mapping[str, Any]) -> str:
    """One pydantic error in a sentence: the parameter, the value, what was expected, the way out."""
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        near = nearest(name, Study.model_fields)
        hint = f"did you mean '{near}'?" if near else f"known are {', '.join(Study.model_fields)}"
        return f"parameter '{name}' is unknown; {hint}"
    value, message = problem["input"], problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    hint = ""
    if problem["type"] in ("float_type", "int_type") and isinstance(value, str):
        number = _as_number(value)
        if number is not None and (problem["type"] == "float_type" or number.is_integer()):
            shown = _yaml_number(number) if problem["type"] == "float_type" else str(int(number))
            hint = f"; this is text for YAML, write {shown}"
    return f"{name} = {value!r}: {message}{hint} ({Study.model_fields[name].description})"


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _yaml_number(number: float) -> str:
    """`number` as YAML 1.1 reads it: with a decimal point before the exponent and a sign in it."""
    mantissa, exponent = f"{number:e}".split("e")
    mantissa = mantissa.rstrip("0")
    return f"{mantissa}0e{int(exponent):+d}" if mantissa.endswith(".") else f"{mantissa}e{int(exponent):+d}"
