"""Every figure by one name, `plots`: data, networks, trainings, the analysis and real lenses.

`plots.roc_curves(...)` draws a matplotlib figure that knows its caption; `show` puts it into a notebook.
"""

from lensstudy.figures.analysis import (
    along_truth,
    attributions,
    comparison,
    confusion_matrices,
    costs,
    learning_curves,
    mistakes,
    reliability,
    robustness,
    roc_curves,
    rotation_changes,
    transfer,
)
from lensstudy.figures.data import (
    class_means,
    examples,
    excluded,
    orientation,
    populations,
    radial_profiles,
    residuals,
    shortcuts,
)
from lensstudy.figures.networks import (
    invariance_curves,
)
from lensstudy.figures.observations import (
    answers,
    counterparts,
    gallery,
    ood_scores,
    place_maps,
    recovery_curves,
)
from lensstudy.figures.predictions import explanations, predictions, rotations
from lensstudy.figures.style import draw_image, image_row, show, strip
from lensstudy.figures.training import (
    alternatives,
    live_curves,
    range_test,
    recalls,
    schedule,
    slices,
    training_curves,
)

__all__ = [
    "along_truth",
    "alternatives",
    "answers",
    "attributions",
    "class_means",
    "comparison",
    "confusion_matrices",
    "costs",
    "counterparts",
    "draw_image",
    "examples",
    "excluded",
    "explanations",
    "gallery",
    "image_row",
    "invariance_curves",
    "learning_curves",
    "live_curves",
    "mistakes",
    "ood_scores",
    "orientation",
    "place_maps",
    "populations",
    "predictions",
    "radial_profiles",
    "range_test",
    "recalls",
    "recovery_curves",
    "reliability",
    "residuals",
    "robustness",
    "roc_curves",
    "rotation_changes",
    "rotations",
    "schedule",
    "shortcuts",
    "show",
    "slices",
    "strip",
    "training_curves",
    "transfer",
]
