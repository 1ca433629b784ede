"""What can be set in a study, in one typed and flat schema.

A study is one YAML file of `params/`. Its keys are the fields of `Study`, and they carry the same names in the
notebooks' `parameters` cells and in the reports. The defaults are those of the `smoke` study, which learns in a minute.
Unknown keys, wrong types and values out of range are errors before anything runs. Every field belongs to a group, and
the groups that a stage uses decide when it is stale.
"""

from __future__ import annotations

import ast
import math
import os
import sys
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from lensstudy.files import FileError, printable, read_json, read_text
from lensstudy.text import nearest

__all__ = [
    "BUNDLE",
    "PAGES",
    "SERIES",
    "ParameterError",
    "Study",
    "check_sees_images",
    "home",
    "notebook_parameters",
    "notebooks_folder",
    "study_file",
    "values_in",
]

# In a checkout notebooks and parameter files lie beside the package, in an installed wheel inside it.
PACKAGE = Path(__file__).resolve().parent
BUNDLE = PACKAGE.parent if (PACKAGE.parent / "workflow" / "Snakefile").exists() else PACKAGE / "bundled"


class ParameterError(ValueError):
    """A parameter that the study cannot use; the message says which, why, and what would do."""


PAGES = (
    "00-start-here",
    "01-explore-data",
    "02-build-models",
    "03-train",
    "04-analyse",
    "05-improve",
    "06-validate-on-real-lenses",
    "07-known-subhalo",
    "08-apply",
    "10-published-networks",
    "11-fit-real-lenses",
    "12-detectability",
    "13-subhalos-in-a-sample",
)


SHOW_IMAGES = ("04-analyse", "06-validate-on-real-lenses", "08-apply")  # to trained networks, whatever these see


# A field's group says what depends on it. What has none (`study`, `pages`, `question`, `image_credit`,
# `plugins`, `strategy`, `tensorboard`) makes nothing stale.
_data = partial(Field, json_schema_extra={"group": "data"})
_exploration = partial(Field, json_schema_extra={"group": "exploration"})
_network = partial(Field, json_schema_extra={"group": "network"})
_comparison = partial(Field, json_schema_extra={"group": "comparison"})
_repetition = partial(Field, json_schema_extra={"group": "repetition"})
_training = partial(Field, json_schema_extra={"group": "training"})
_diagnostics = partial(Field, json_schema_extra={"group": "diagnostics"})
_analysis = partial(Field, json_schema_extra={"group": "analysis"})
_improvement = partial(Field, json_schema_extra={"group": "improvement"})
_observations = partial(Field, json_schema_extra={"group": "observations"})
_search = partial(Field, json_schema_extra={"group": "search"})
_application = partial(Field, json_schema_extra={"group": "application"})
_published = partial(Field, json_schema_extra={"group": "published"})
_transfer = partial(Field, json_schema_extra={"group": "transfer"})


LAST_SEED = 2**32 - 1  # the last that every generator of random numbers takes
MANY = 10_000_000  # more images, epochs or resamplings than these are a slip
YAML_LIMIT, REFERENCES = 2**20, 100  # bytes and references in the file of a study
SERIES = "series"  # in a file that stands for several studies: lists of values by parameter
AT_SHARE = "at_share"  # within the settings of a network: those for one share of the training images
SHARED = ("seed", "share", "threads", "devices", "nodes")  # one for all networks: what runs, and on what
NETWORK = r"^[a-z0-9][a-z0-9-]*$"  # names of networks are names of folders and pages


class _Loader(yaml.SafeLoader):
    """YAML as a study may have it: names are text and stand there once, and references are few and none refers to
    others, because a few lines of references to references mean more than any memory holds."""

    def __init__(self, stream):
        super().__init__(stream)
        self.references, self.open, self.referring = 0, [], set()  # open: anchors of the nodes around this one

    def compose_node(self, parent, index):
        anchor = self.peek_event().anchor
        if self.check_event(yaml.AliasEvent):
            self.references += 1
            self.referring.update(name for name in self.open if name)
            if anchor in self.referring:
                raise yaml.YAMLError(f"*{printable(anchor)} refers to what refers on; write out what it stands for")
            if self.references > REFERENCES:
                raise yaml.YAMLError(f"more than {REFERENCES} references such as *{printable(anchor)}; write them out")
            return super().compose_node(parent, index)
        self.open.append(anchor)
        node = super().compose_node(parent, index)
        self.open.pop()
        return node

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != MERGE]
        for name in names:
            if not isinstance(name, str):
                raise yaml.YAMLError(f"{name!r} is no name of a parameter; YAML reads on, off, dates and numbers so")
            if names.count(name) > 1:
                raise yaml.YAMLError(f"'{printable(name)}' stands there twice; remove one")
        return super().construct_mapping(node, deep)


MERGE = "tag:yaml.org,2002:merge"  # the key << of YAML
# Lenses that differ little, bright, with substructure far heavier than expected: a network learns them in a minute.
EASY = {
    "einstein_radius_min": 1.0,
    "einstein_radius_max": 1.2,
    "ellipticity_max": 0.05,
    "shear_max": 0.02,
    "source_magnitude_min": 19.0,
    "source_magnitude_max": 20.0,
    "source_radius_min": 0.2,
    "source_radius_max": 0.4,
    "source_index_min": 1.0,
    "source_index_max": 2.0,
    "source_axis_ratio_min": 0.8,
    "source_offset_max": 0.1,
    "subhalo_density_min": 0.1,
    "subhalo_density_max": 0.2,
    "subhalo_mass_min": 2e9,
    "subhalo_profile": "point",
    "subhalo_radius_max": 1.5,
    "axion_fraction_min": 0.1,
    "axion_fraction_max": 0.2,
    "vortex_half_length_min": 0.5,
    "vortex_offset_max": 0.5,
}


class Study(BaseModel):
    """Hold every parameter of a study, checked; `Study.read` takes them from a file of `params/`.

    Sizes are in pixels, angles in degrees, noise in units of an image's peak. Fields cannot be
    assigned to; `Study.read(..., name=value)` and `model_copy(update=...)` make another study.

    Args:
        **parameters: the fields, each described in `params/smoke.yml`; those not given have its values.

    Raises:
        ValidationError: for a name that no study knows, or a value out of range.

    Example:
        >>> study = Study(study="wide", width=2.0, seeds=[1, 2])
        >>> study.changes()
        {'width': 2.0, 'seeds': [1, 2]}
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    study: str = Field(
        "smoke", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the study and its folders"
    )
    pages: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")]] = Field(
        ["01-explore-data", "02-build-models", "03-train", "04-analyse"],
        min_length=1,
        description="notebooks that `lensstudy run` goes through",
    )
    question: str = Field(
        "Does a network that knows rotations and reflections tell types of dark matter apart better than one "
        "that does not?",
        description="the question on top of every report",
    )
    image_credit: str = Field(
        "", description="credit under which images of others may be published; empty: reports for all leave them out"
    )

    # data
    data_path: str = _data("", description="folder, tar or zip with one folder a class; empty: simulate")
    classes: list[str] = _data(
        [], description="names of the classes, in the order of a network's outputs; empty: as they come"
    )
    labels: str = _data("", description="CSV file with the class of each image, or the name of an HDF5 attribute")
    label_columns: list[str] = _data([], description="its columns with names and classes; empty: found by their names")
    extension: str = _data("", description="FITS extension, HDF5 dataset or npz key of the images; empty: found")
    pixel_scale: float = _data(0.0, ge=0, description="arcseconds of one pixel, where the files do not say; 0: unknown")
    camera: str = _data(
        "", description="preset whose camera took the images that are read: smooth lenses can be fitted to them then"
    )
    split: Literal["random", "given"] = _data("random", description="given: keep the parts in which the images came")
    preset: str = _data("realistic", description="preset of the simulator; mixture: several, listed in population")
    population: dict[str, Any] = _data(EASY, description="changes to the population of the preset")
    images_per_class: int = _data(200, ge=10, le=MANY, description="simulated images of each class")
    test_images: int = _data(
        0,
        ge=0,
        le=MANY,
        description="images of each class simulated for the test alone; 0: test_fraction",
    )
    image_size: int = _data(32, ge=16, le=1024, description="pixels along one side of a simulated image")
    noise_level: float = _data(0.0, ge=0, le=10, description="noise in units of each image's peak; 0: the preset's own")
    data_seed: int = _data(1, ge=0, le=LAST_SEED, description="seed of the images and of the split")
    filtering: dict[str, Any] = _data(
        {}, description="changes to the thresholds by which read images are excluded; null switches a rule off"
    )
    preset_images: int = _exploration(
        30, ge=10, le=MANY, description="images of each class for the comparison of presets"
    )
    test_fraction: float = _data(0.1, gt=0, lt=1, description="share of the images kept for the test")
    validation_fraction: float = _data(
        0.1, gt=0, lt=1, description="share of the rest on which the best checkpoint is chosen"
    )

    # what a network sees
    crop: int = _network(0, ge=0, description="central pixels shown to the networks; 0: as many as keep exact symmetry")
    binning: int = _network(
        1, ge=1, le=8, description="pixels along each side averaged into one before a network sees them"
    )
    scaling: Literal["none", "min-max", "maximum", "asinh", "z-score", "noise"] = _network(
        "asinh", description="how brightness is stretched"
    )
    residual: Literal["none", "beside", "alone"] = _network(
        "none", description="what the best smooth lens leaves of an image, in sigma, beside the image or in its place"
    )

    # networks
    networks: list[Annotated[str, Field(pattern=NETWORK)]] = _comparison(
        ["d4-steerable-cnn", "d4-steerable-cnn-matched"], min_length=1, description="networks to compare"
    )
    network: str = _network("d4-steerable-cnn", pattern=NETWORK, description="the network of one training")
    plugins: list[str] = Field([], description="modules that register networks of your own, from the working folder")
    width: float = _network(0.5, gt=0, le=16, description="channels, as a multiple of each network's own number")
    depth: int = _network(1, ge=1, le=8, description="convolutions or blocks in place of each of the network's own")
    kernel_sizes: list[int] = _network([], description="sizes of the network's filters, one a stage; empty: its own")

    # training, the same for every network
    seeds: list[int] = _repetition(
        [1], min_length=1, description="seeds of weights, order and augmentation, one training each"
    )
    seed: int = _training(1, ge=0, le=LAST_SEED, description="the seed of one training")
    shares: list[float] = _repetition(
        [100.0], min_length=1, description="percent of the training images, for learning curves; nested subsets"
    )
    share: float = _training(100.0, gt=0, le=100, description="percent of the training images of one training")
    epochs: int = _training(
        8, ge=1, le=MANY, description="passes over the training images; a share of them is shown as many steps"
    )
    batch_size: int = _training(32, ge=1, le=MANY, description="images in one step")
    accumulate: int = _training(1, ge=1, le=MANY, description="batches whose gradients are averaged before one step")
    optimizer: Literal["adamw", "sgd"] = _training("adamw", description="AdamW, or SGD with Nesterov momentum 0.9")
    learning_rate: float = _training(0.005, gt=0, le=10, description="highest learning rate of the schedule")
    settings: dict[str, dict[str, Any]] = _comparison(
        {},
        description="training parameters of single networks, chosen on validation; what is not named is as here; those "
        "under `at_share` hold for trainings with that share of the images alone",
    )
    start_from: dict[str, str] = _comparison(
        {}, description="run folders, or networks that come with the package, that single networks are fine-tuned from"
    )
    weight_decay: float = _training(0.01, ge=0, description="weight decay, decoupled from the gradient in AdamW")
    gradient_clip: float = _training(1.0, ge=0, description="largest norm of the gradient; 0: no clipping")
    schedule: Literal["one-cycle", "cosine", "step", "plateau", "constant"] = _training(
        "one-cycle", description="decay of the learning rate"
    )
    warmup_fraction: float = _training(0.2, ge=0, lt=1, description="share of the steps in which the rate rises")
    decay_factor: float = _training(0.1, gt=0, lt=1, description="what step and plateau multiply the rate with")
    decay_patience: int = _training(
        2, ge=0, le=MANY, description="epochs without progress before plateau lowers the rate"
    )
    class_weights: Literal["none", "balanced"] = _training(
        "none", description="weight of a class in the loss: one, or one over its share of the training images"
    )
    label_smoothing: float = _training(0.0, ge=0, lt=1, description="share of the label spread over all classes")
    averaging: Literal["none", "ema", "swa"] = _training(
        "none", description="average of the weights: exponential over steps, or equal over the last epochs"
    )
    averaging_decay: float = _training(0.99, gt=0, lt=1, description="memory of the exponential average, per step")
    averaging_start: float = _training(0.75, ge=0, lt=1, description="share of the training after which swa averages")
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = _training(
        "32-true", description="arithmetic of the training: bf16-mixed on newer processors and GPUs, 16-mixed on GPUs"
    )
    threads: int = _training(1, ge=1, le=1024, description="processor threads of one training")
    accelerator: Literal["auto", "cpu", "gpu"] = _training(
        "auto", description="what networks run on: a GPU where there is one, the processor, or a GPU and nothing else"
    )
    devices: int = _training(
        1, ge=1, le=1024, description="GPUs, or processes on processors, of one training on each node"
    )
    nodes: int = _training(1, ge=1, le=4096, description="machines of one training")
    strategy: str = Field("auto", description="how several devices work together, in Lightning's words")
    augmentation: Literal["none", "square", "any", "mixed"] = _training(
        "mixed",
        description="rotations and reflections in training: none, by 90 degrees, by any angle, or half of each",
    )
    patience: int = _training(0, ge=0, le=MANY, description="epochs without progress before training stops; 0: never")
    monitor: Literal["validation_loss", "validation_auc", "last"] = _training(
        "validation_loss", description="what chooses the best checkpoint; last: the last epoch"
    )
    tensorboard: bool = Field(False, description="also write the history for TensorBoard, beside history.csv")
    fresh_images: int = _training(
        0, ge=0, le=MANY, description="images simulated anew for each epoch, in place of the training part; 0: none"
    )
    curriculum: list[list[float]] = _training(
        [], description="with fresh images: [epochs, factor on the substructure's mass, factor on the photons], ..."
    )
    adaptation: Literal["none", "batch-norm", "sinkhorn", "adversarial", "pseudo-labels"] = _training(
        "none", description="how unlabelled target images are learnt from; fit and `lensstudy train` take them"
    )
    adaptation_weight: float = _training(
        1.0, ge=0, le=100, description="largest weight of an adversarial loss, or of that of pseudo-labels"
    )
    adaptation_start: float = _training(
        0.2, ge=0, lt=1, description="share of the training that passes without a loss on target images"
    )
    confidence: float = _training(
        0.9, gt=0, lt=1, description="probability above which a target image gets a pseudo-label"
    )
    range_test_steps: int = _diagnostics(
        40, ge=10, le=MANY, description="steps of the learning-rate range test of 03-train"
    )

    # analysis
    random_rotations: int = _analysis(1, ge=1, le=MANY, description="random rotations of every test image")
    orientations: int = _analysis(8, ge=2, le=360, description="angles over which the rotation consistency is taken")
    perturbation_shift: float = _analysis(2.0, ge=0, description="shift of the perturbed test images in pixels")
    perturbation_noise: float = _analysis(
        2.0, gt=1, description="noise of the perturbed test images, as a multiple of their own"
    )
    perturbation_blur: float = _analysis(2.0, gt=0, description="FWHM in pixels of the PSF added as a perturbation")
    perturbation_zoom: float = _analysis(
        1.1, gt=0.2, lt=5, description="size of the lens in the perturbed test images, as a multiple of its own"
    )
    bootstrap_samples: int = _analysis(
        200, ge=50, le=MANY, description="resamplings of the test images for an interval"
    )
    substructure_shares: list[float] = _analysis(
        [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
        min_length=1,
        description="masses of the substructure in 12-detectability, as shares of the study's; of the preset realistic",
    )
    smooth_fit_images: int = _analysis(
        30, ge=0, le=MANY, description="simulated test images of each class to which a smooth lens is fitted; 0: none"
    )

    # improvement, on the validation part only
    trials: int = _improvement(2, ge=1, le=MANY, description="trials of each network in 05-improve")
    search_epochs: int = _improvement(1, ge=1, le=MANY, description="epochs of one trial")
    search_space: dict[str, list] = _improvement(
        {"learning_rate": [0.001, 0.02], "width": [0.25, 0.5]},
        description="what trials vary: [lowest, highest] of a number with a decimal point, else choices",
    )
    search_storage: str = _improvement(
        "",
        description="file on a shared disk, or URL, that several processes share; empty: in the study's folder",
    )
    grid: dict[str, list] = _improvement(
        {"augmentation": ["square", "mixed"]},
        min_length=1,
        description="settings of which every combination is trained for every network, on search_epochs each",
    )
    alternatives: list[dict[str, Any]] = _improvement(
        [{"optimizer": "sgd"}], description="changes of one setting each, trained beside the best combination"
    )
    new_seeds: list[int] = _improvement(
        [101], min_length=1, description="seeds that confirm an improvement; no trial had them"
    )

    # real lenses
    observations_path: str = _observations(
        "", description="folder of real cutouts, FITS or HDF5; empty: simulated ones, written as FITS"
    )
    observations_pixel_scale: float = _observations(
        0.0, ge=0, description="arcseconds of one pixel, where their files do not say; 0: unknown"
    )
    run_folders: list[str] = _observations([], description="run folders to put beside this study's own")
    reference_images: int = _observations(
        60, ge=50, le=MANY, description="simulated images of each class that define what is in distribution"
    )
    noise_draws: int = _observations(
        12, ge=4, le=MANY, description="draws of noise for smooth counterparts and for each injected mass"
    )
    abstain_below: float = _observations(
        0.01, gt=0, lt=0.5, description="p-value below which an image is out of distribution"
    )

    counterparts: int = _observations(
        4, ge=4, le=MANY, description="simulated counterparts of each real lens that networks learn from"
    )
    source_galaxies: str = _observations(
        "", description="folder of galaxies (FITS) as sources of counterparts; empty: Sersic profiles with knots"
    )

    # the search for one subhalo
    searched_lenses: list[str] = _search(
        [],
        description="images of a lens with a known subhalo, and of others; empty: simulated ones",
    )
    search_step: float = _search(
        1.2, ge=0.05, le=5, description="arcseconds between the places on the arcs where a search starts"
    )
    source_splines: list[Annotated[int, Field(ge=8, le=64)]] = _search(
        [12], min_length=1, description="splines along each axis of the source; those after the first are variants"
    )

    # application
    apply_to: str = _application(
        "", description="your own images, as a file, folder, archive or pattern; empty: the test part of the study"
    )
    apply_pixel_scale: float = _application(
        0.0, ge=0, description="arcseconds of one pixel, where the files do not say; 0: unknown"
    )
    apply_rotations: int = _application(
        1, ge=1, le=360, description="orientations of each of these images to average over, evenly spaced"
    )

    # networks that others published
    published_networks: str = _published(
        "", description="folder of published networks, as safetensors; empty: only that of this package"
    )
    published_images: int = _published(
        30, ge=2, le=MANY, description="simulated Common Test images of each class that they are applied to"
    )
    published_draws: int = _published(
        2, ge=1, le=100, description="sets of so many images, each with a seed of its own, from data_seed on"
    )
    published_fits: int = _published(
        2, ge=0, le=MANY, description="images of each class of the first set to which a smooth lens is fitted; 0: none"
    )
    labelled_images: str = _published(
        "", description="original Common Test images in a folder a class, which no page shows; empty: none"
    )

    # from one telescope to another
    targets: list[dict[str, Any]] = _transfer(
        [{"study": "model-3", "preset": "model_3", "noise_level": 0.02, "image_size": 32, "images_per_class": 100}],
        min_length=1,
        description="images that networks are to work on too, each named in `study`, with its parameters of data",
    )
    match_pixels: bool = _transfer(
        False, description="bring targets to the pixel scale of the training images, or their whole field to its size"
    )
    inputs: dict[str, dict[str, Any]] = _transfer(
        {"in units of noise": {"scaling": "noise"}},
        description="changes of what networks see, by name, each made alone and then all together",
    )
    adaptations: list[Literal["batch-norm", "sinkhorn", "adversarial", "pseudo-labels"]] = _transfer(
        ["batch-norm"], description="ways to learn from a target's unlabelled images, each on top of all the inputs"
    )
    staircase_images: int = _transfer(
        15, ge=10, le=MANY, description="simulated images of each class on each step between two presets"
    )
    staircase_fits: int = _transfer(
        1, ge=0, le=MANY, description="images of each class and step to which a smooth lens is fitted; 0: none"
    )

    @model_validator(mode="before")
    @classmethod
    def _population_belongs_to_the_preset(cls, values: Any) -> Any:
        """Whoever names a preset and no population means the preset as it is, not the changes made here to another."""
        alone = isinstance(values, dict) and "preset" in values and "population" not in values
        return values | {"population": {}} if alone else values

    @field_validator("networks", "seeds", "shares", "new_seeds")
    @classmethod
    def _each_once(cls, values: list) -> list:
        if repeated := sorted({str(value) for value in values if values.count(value) > 1}):
            raise ValueError(f"{', '.join(repeated)} stands there twice, which is no second training")
        if wrong := [value for value in values if isinstance(value, int) and not 0 <= value <= LAST_SEED]:
            raise ValueError(f"{wrong[0]} is no seed; they are integers from 0 to {LAST_SEED}")
        return values

    @field_validator("shares")
    @classmethod
    def _percent(cls, values: list[float]) -> list[float]:
        if wrong := [value for value in values if not 0 < value <= 100]:
            raise ValueError(f"{wrong[0]} is no share; expected percent, more than 0 and at most 100")
        return values

    @field_validator("test_images")
    @classmethod
    def _of_the_simulator(cls, value: int, others: ValidationInfo) -> int:
        if value and others.data.get("data_path"):
            raise ValueError("only a simulated study can have more test images; for images that are read use 0")
        return value

    @field_validator("settings")
    @classmethod
    def _settings_of_networks(cls, values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Each by the schema of the parameter that it replaces."""
        checked = {}
        for network, own in values.items():
            checked[network] = cls._settings_of(network, {name: own[name] for name in own if name != AT_SHARE})
            if AT_SHARE in own:
                checked[network][AT_SHARE] = cls._settings_at_shares(network, own[AT_SHARE])
        return checked

    @classmethod
    def _settings_at_shares(cls, network: str, given: Any) -> dict[str, dict[str, Any]]:
        try:
            shares = [float(share.removesuffix("%")) for share in given]
            settings = [cls._settings_of(network, dict(own)) for own in given.values()]
        except (AttributeError, TypeError):
            raise ValueError(
                f"{network}: {AT_SHARE} is {given!r}; expected such as {{5%: {{weight_decay: 0.3}}}}"
            ) from None
        cls._percent(shares)
        return {f"{share:g}%": own for share, own in zip(shares, settings, strict=True)}

    @classmethod
    def _settings_of(cls, network: str, own: dict[str, Any]) -> dict[str, Any]:
        known = [name for name in cls.groups()["training"] if name not in SHARED]
        for name in own:
            if name not in known:
                near = nearest(name, known)
                hint = f"did you mean '{near}'?" if near else f"known are {', '.join(known)}"
                raise ValueError(f"{network}: '{name}' is no setting of single networks; {hint}")
        try:
            checked = cls(**own)
        except ValidationError as error:
            raise ValueError(f"{network}: " + "; ".join(map(_explain, error.errors()))) from None
        return {name: getattr(checked, name) for name in own}

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
            elif name == "presets" and isinstance(value, list) and all(isinstance(one, dict) for one in value):
                for one in value:
                    cls._numbers_are_no_text(one)
            elif not isinstance(value, str | bool | int | float | None):
                raise ValueError(f"{name} = {value!r} is neither a number, a text nor true or false")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} = {value} is not finite")
            if isinstance(value, str) and (number := _as_number(value)) is not None:
                raise ValueError(f"{name} = {value!r} is text for YAML; write {_yaml_number(number)}")
        return values

    @field_validator("targets")
    @classmethod
    def _targets_are_data(cls, targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Each by the schema of the parameters that it replaces."""
        known = ["study", *cls.groups()["data"]]
        for number, target in enumerate(targets):
            if wrong := [name for name in target if name not in known]:
                raise ValueError(
                    f"targets[{number}]: '{wrong[0]}' is no parameter of data; known are {', '.join(known)}"
                )
            if "study" not in target:
                raise ValueError(f"targets[{number}]: has no name; give it one in `study`")
            try:
                cls(**target)
            except ValidationError as error:
                raise ValueError(f"targets[{number}]: " + "; ".join(map(_explain, error.errors()))) from None
        return targets

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
    def read(cls, study: str | Path, /, **overrides: Any) -> Study:
        """Read a study from its YAML file, with single parameters changed.

        In a notebook that papermill runs (`-p`, `-f`), the parameters injected there are part of the study, whether the
        notebook declares them or not; a name that no study has is an error.

        Args:
            study: name of a file in `params/`, such as `"quick"`, or the path of a YAML file.
            **overrides: values of single parameters; `None` leaves a parameter as the study has it. A `learning_rate`
                or another parameter of training holds for every network, those that have their own in the study's
                `settings` too, and another `preset` comes with its own population, unless `settings` or `population`
                are given beside it.

        Returns:
            The checked parameters. Without a key `study` in the file, the study is named after it.

        Raises:
            ParameterError: an unknown study or parameter, a wrong type or a value out of range.

        Example:
            >>> parameters = Study.read("smoke", epochs=3, learning_rate=None)
            >>> parameters.epochs, parameters.learning_rate
            (3, 0.005)
        """
        file = study_file(study)
        values = values_in(file)
        given = {name: value for name, value in overrides.items() if value is not None}
        injected = _injected(study)
        changed = injected | given
        several = values.pop(SERIES, {})
        if missing := [name for name in several if name not in changed]:
            raise ParameterError(
                f"{file}: is a series of studies over {', '.join(missing)}; `lensstudy run {file}` runs all, and each "
                "stands in runs/<its name>/study.yml"
            )
        if for_all := _meant_for_all(given, injected, values):
            changed["settings"] = _without(values["settings"], for_all)
        if _is_another_preset(changed, values) and "population" not in given:
            changed["population"] = {}
        where = f"{file}, {', '.join(changed)} changed" if changed else str(file)
        return cls.of({"study": file.stem, **values, **changed}, where)

    @classmethod
    def groups(cls) -> dict[str, list[str]]:
        """The names of the parameters in each group."""
        groups: dict[str, list[str]] = {}
        for name, field in cls.model_fields.items():
            if isinstance(field.json_schema_extra, dict):
                groups.setdefault(str(field.json_schema_extra["group"]), []).append(name)
        return groups

    def group(self, *names: str) -> dict[str, Any]:
        """The parameters of these groups, by name: `study.group("data")`."""
        groups = self.groups()
        if unknown := set(names) - groups.keys():
            raise ValueError(f"group '{min(unknown)}' is unknown; known groups: {', '.join(groups)}")
        return {parameter: getattr(self, parameter) for name in names for parameter in groups[name]}

    @property
    def folder(self) -> Path:
        """`runs/<study>`, where the stages of this study leave their files."""
        return home() / "runs" / self.study

    def training_folder(self, network: str | None = None, seed: int | None = None, share: float | None = None) -> Path:
        """The run folder of one training, such as `d4-steerable-cnn-s1` or `resnet18-s2-3pct`."""
        share = self.share if share is None else share
        percent = "" if share == 100 else f"-{share:g}pct"
        return self.folder / "training" / f"{network or self.network}-s{self.seed if seed is None else seed}{percent}"

    def training(self, network: str | None = None, seed: int | None = None, share: float | None = None) -> Study:
        """The parameters of one training of this study, by default of the one it names, with the `settings` of its
        network, and of its share, in place of the study's own; `settings` is empty then."""
        network, share = network or self.network, self.share if share is None else float(share)
        own = dict(self.settings.get(network, {}))
        own |= own.pop(AT_SHARE, {}).get(f"{share:g}%", {})
        seed = self.seed if seed is None else seed
        return self.model_copy(update={"network": network, "seed": seed, "share": share, "settings": {}} | own)

    def changes(self) -> dict[str, Any]:
        """The parameters that differ from the defaults, `study` and `question` aside."""
        defaults = Study()
        return {
            name: value
            for name, value in self.model_dump().items()
            if value != getattr(defaults, name) and name not in ("study", "question")
        }


def check_sees_images(study: Study, pages: Collection[str] = SHOW_IMAGES) -> None:
    """Raise `ParameterError` for a study whose networks see residuals, if any of these pages would show them images."""
    if study.residual != "none" and (shown := [page for page in SHOW_IMAGES if page in pages]):
        raise ParameterError(
            f"residual = '{study.residual}': {', '.join(shown)} would show such networks images; they are trained in "
            "03-train and judged in 12-detectability, and in 09-from-one-telescope-to-another under `inputs`. Leave "
            "those pages out, or use residual: none"
        )


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


def study_file(study: str | Path) -> Path:
    """Return the YAML file of a study, given by its name in `params/` or by a path.

    Names are looked up in the `params/` of the working folder (`home`), then among those that come with the package.
    Raises `ParameterError` for a name that is in neither.
    """
    file, folders = Path(study), (home() / "params", BUNDLE / "params")
    if file.suffix in (".yml", ".yaml"):
        bundled = folders[1] / file.name
        return bundled if not file.exists() and file.parent.as_posix() in (".", "params") and bundled.exists() else file
    for folder in folders:
        if (folder / f"{study}.yml").is_file():
            return folder / f"{study}.yml"
    known = sorted({one.stem for folder in folders for one in folder.glob("*.yml")})
    near = nearest(str(study), known)
    hint = f"did you mean '{near}'? " if near else ""
    raise ParameterError(
        f"study '{study}' is unknown; {hint}known in params/: {', '.join(known)}; or give the path of a YAML file"
    )


def values_in(file: Path) -> dict[str, Any]:
    """What stands in the file of a study: parameters, unchecked, and lists of them under `series` where it has some."""
    try:
        values = yaml.load(read_text(file, YAML_LIMIT), _Loader)
    except OSError as error:
        raise ParameterError(f"{file}: cannot be read ({error.strerror}); params/ holds the studies") from None
    except FileError as error:
        raise ParameterError(f"{error}; params/smoke.yml shows what a study looks like") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "lists within lists without end" if isinstance(error, RecursionError) else error
        raise ParameterError(f"{file}: is no valid YAML: {reason}") from None
    if not isinstance(values, dict):
        raise ParameterError(f"{file}: holds no 'name: value' lines; params/smoke.yml shows all of them")
    several = values.get(SERIES, {})
    if not isinstance(several, dict) or not all(isinstance(one, list) and one for one in several.values()):
        raise ParameterError(f"{file}: series = {several!r}: expected lists of values, such as {{width: [1.0, 2.0]}}")
    if unknown := [name for name in several if name not in Study.model_fields or name == "study"]:
        near = nearest(unknown[0], [name for name in Study.model_fields if name != "study"])
        hint = f"; did you mean '{near}'?" if near else ""
        raise ParameterError(f"{file}: series: '{unknown[0]}' is no parameter that could vary{hint}")
    return values


def notebooks_folder() -> Path:
    """The notebooks of the working folder, which may have been changed; else those that came with the package."""
    own = home() / "notebooks"
    return own if (own / "01-explore-data.ipynb").exists() else BUNDLE / "notebooks"


def notebook_parameters(notebook: str | Path) -> dict[str, Any]:
    """The names that a notebook's `parameters` cell assigns, with their defaults."""
    try:
        cells = read_json(notebook)["cells"]
        tagged = ("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
        source = next(tagged, "")
        lines: list[Any] = [line for line in ast.parse(source).body if isinstance(line, ast.AnnAssign)]
        return {line.target.id: ast.literal_eval(line.value) for line in lines}
    except FileError as error:
        raise ParameterError(f"{error}; bring the notebook back") from None
    except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ParameterError(
            f"{notebook}: its parameters cannot be read ({error}); expected lines such as `epochs: int = 2` in the "
            "cell that is tagged `parameters`"
        ) from None


def _meant_for_all(given: Mapping[str, Any], injected: Mapping[str, Any], values: Mapping[str, Any]) -> set[str]:
    """The parameters, given or injected, that single networks have their own of in the file and that are now meant for
    every network: none if `settings` are given beside them, nor those that only repeat the `values` of the file, as
    `papermill -f` does."""
    own, repeated = values.get("settings"), "settings" in injected
    if "settings" in given or not _is_of_networks(own) or (repeated and injected["settings"] != own):
        return set()
    changed = {
        name: value for name, value in {**injected, **given}.items() if not repeated or value != values.get(name)
    }
    return {name for settings in own.values() for name in _names(settings)} & changed.keys()


def _is_of_networks(settings: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(settings, Mapping) and all(isinstance(own, Mapping) for own in settings.values())


def _without(settings: Mapping[str, Mapping[str, Any]], names: set[str]) -> dict[str, dict[str, Any]]:
    """The settings of single networks without the parameters `names`."""

    def kept(own: Any) -> Any:
        return {
            name: {share: kept(of_share) for share, of_share in value.items()} if name == AT_SHARE else value
            for name, value in own.items()
            if name not in names
        }

    return {network: kept(own) for network, own in settings.items()}


def _names(settings: Mapping[str, Any]) -> set[str]:
    """The parameters among the settings of a network, at all shares or at one."""
    at_shares = settings.get(AT_SHARE, {}).values()
    return (settings.keys() - {AT_SHARE}).union(*at_shares)


def _is_another_preset(changed: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether `changed` asks for another preset than the `values` of the file do, for which their population, which
    `papermill -f` repeats, was not made."""
    own = values.get("preset", Study.model_fields["preset"].default)
    repeated = changed.get("population", values.get("population")) == values.get("population")
    return changed.get("preset", own) != own and repeated


def _injected(study: str | Path) -> dict[str, Any]:
    """What papermill has injected into the notebook that runs this; nothing if that is another study or no notebook.

    papermill warns of names that a notebook does not declare and goes on; here they count, or are errors. The cell it
    adds begins with `# Parameters` and is among the cells that this kernel has run.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or shell.user_ns.get("study") != study:
        return {}
    cells = [source for source in shell.user_ns.get("In", ()) if source.startswith("# Parameters\n")]
    values = {}
    for line in ast.parse(cells[-1]).body if cells else ():
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            value = line.value.args[0] if isinstance(line.value, ast.Call) else line.value  # float("nan")
            values[line.targets[0].id] = ast.literal_eval(value)
    return {name: value for name, value in values.items() if name not in ("study", "more") and value is not None}


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
