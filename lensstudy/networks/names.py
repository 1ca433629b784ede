"""The names of the networks: which there are, what each is for, which a name stands for, and where the trained ones lie
that come with the package.

Only names, and nothing that builds: a misspelt one is found before anything heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lensstudy.text import nearest

__all__ = [
    "BASELINES",
    "NETWORKS",
    "PRETRAINED",
    "REGULAR",
    "check_name",
    "folder_of",
    "pretrained_names",
    "searching",
]

GROUPS = {
    "c4": "rotations by 90 degrees",
    "c8": "rotations by 45 degrees",
    "d4": "rotations by 90 degrees and reflections",
    "d8": "rotations by 45 degrees and reflections",
}
REGULAR = {  # architectures of regular fields, each with its matched plain baseline
    "steerable-cnn": "plain-cnn",
    "mean-cnn": "plain-cnn",
    "antialiased-cnn": "plain-antialiased-cnn",
    "resnet": "plain-resnet",
    "wide-resnet": "plain-wide-resnet",
}
PLAIN = {
    "plain-cnn": "five convolutions without symmetry: what the steerable ones are compared with",
    "plain-antialiased-cnn": "the same, blurred before each pooling",
    "plain-resnet": "a ResNet without symmetry that pools where others take strides",
    "plain-wide-resnet": "the same with twice the channels",
    "plain-classic-cnn": "six convolutions without symmetry: what p4-cnn and p4m-cnn are compared with",
    "resnet18": "ResNet-18 as He et al. (2016) wrote it and DeepLense uses it",
    "resnet18-small-images": "the same with the stem of its authors for small images: 3x3, no stride, no pooling",
    "resnet34": "the deeper ResNet-34 of the same authors",
}
ARCHITECTURES = {
    "steerable-cnn": "five steerable convolutions, the first to try",
    "mean-cnn": "the same with the mean over the group in place of the maximum; better with few images",
    "antialiased-cnn": "as steerable-cnn, blurred before each pooling",
    "resnet": "a steerable ResNet, for more images and time",
    "wide-resnet": "the same with twice the channels",
}
NETWORKS = {
    f"{group}-{kind}": f"{ARCHITECTURES[kind]}; {symmetry}" for group, symmetry in GROUPS.items() for kind in REGULAR
} | {
    "c1-steerable-cnn": "the steerable filters without symmetry: what they alone are worth",
    "d8-restricted": "steerable convolutions under d8, restricted to d4 after the second pooling",
    "p4-cnn": "group convolutions of Cohen and Welling (2016); rotations by 90 degrees",
    "p4m-cnn": "the same; rotations by 90 degrees and reflections",
    "so2-harmonic": "irreducible fields; rotations by any angle",
    "o2-gated": "irreducible fields with gates; rotations by any angle and reflections",
    **PLAIN,
}
BASELINES = {"-matched-parameters": "parameters", "-matched": "channels"}  # endings of matched plain baselines
PRETRAINED = Path(__file__).parent / "pretrained"  # a folder for each trained network that comes with the package

SEARCHING = {  # those that search lenses for subhalos, and what for; a run folder for each seed
    "slacs": "ranks lenses by what a smooth model leaves (AUC .68, no detection); cutouts with noise maps",
}


def check_name(name: str, registered: Iterable[str] = ()) -> None:
    """Raise `ValueError`, with the nearest and all known names, if no network is called `name`; `registered` are
    those that `register` was given."""
    registered = list(registered)
    if name in registered:
        return
    network = name
    for ending in BASELINES:
        network = network.removesuffix(ending)
    pattern = rf"[cd][1-9]\d*-({'|'.join(REGULAR)})|d(8|12|16)-restricted"
    if network not in NETWORKS and not re.fullmatch(pattern, network):
        known = sorted({*NETWORKS, *registered})
        near = nearest(network, known, cutoff=0.4)
        hint = f" Did you mean '{near}'?" if near else ""
        raise ValueError(
            f"network '{network}' is unknown.{hint} Known networks: {', '.join(known)}; a network of your own is known "
            "once the module that registers it is imported (`plugins` of a study)."
        )
    if network in PLAIN and network != name:
        raise ValueError(f"network '{network}' has no symmetry, so it has no plain baseline; it is one")


def pretrained_names() -> list[str]:
    """List the trained networks that come with the package.

    Returns:
        Their names, which `lensstudy.pretrained` takes, and `fit` as `start_from`.

    Example:
        >>> "realistic-d4" in pretrained_names()
        True
    """
    return sorted(card.parent.name for card in PRETRAINED.glob("*/card.json"))


def searching(network: str) -> Path:
    """The folder of one of `SEARCHING`, with a run folder for each seed. Raises `ValueError` where there is none."""
    if network not in SEARCHING:
        raise ValueError(f"no network '{network}' searches lenses; there are {', '.join(SEARCHING)}")
    return PRETRAINED.parent / "searching" / network


def folder_of(network: str | Path) -> Path:
    """The folder of a trained network: `network` where there is such a folder, or that of the one of this name which
    comes with the package. Raises `ValueError`, with the nearest name and all known ones, where there is neither."""
    folder, known = Path(network).expanduser(), pretrained_names()
    if folder.exists():
        return folder
    if str(network) in known:
        return PRETRAINED / str(network)
    siblings = [one.name for one in folder.parent.iterdir()] if folder.parent.is_dir() else []
    beside = nearest(folder.name, siblings)
    near = nearest(str(network), known) or (str(folder.parent / beside) if beside else "")
    hint = f"did you mean '{near}'? " if near else ""
    raise ValueError(
        f"{folder}: there is no such folder, and no network of this name comes with lensstudy; {hint}there are "
        f"{', '.join(known)}"
    )
