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
    counterparts,
    lens_light,
    network_inputs,
    ood_scores,
    orientations,
    perturbed_predictions,
    recovery_curves,
    smooth_models,
    subhalo_attributions,
    subhalo_map,
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
    "image_row",
    "invariance_curves",
    "learning_curves",
    "lens_light",
    "live_curves",
    "mistakes",
    "network_inputs",
    "ood_scores",
    "orientation",
    "orientations",
    "perturbed_predictions",
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
    "smooth_models",
    "strip",
    "subhalo_attributions",
    "subhalo_map",
    "training_curves",
    "transfer",
]
