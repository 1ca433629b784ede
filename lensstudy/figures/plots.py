"""Every figure by one name, `plots`: data, networks, trainings, the analysis and real lenses.

`plots.roc_curves(...)` draws a matplotlib figure that knows its caption; `show` puts it into a notebook.
"""

from lensstudy.figures.analysis import (
    comparison,
    confusion_matrices,
    costs,
    learning_curves,
    reliability,
    robustness,
    roc_curves,
    rotation_changes,
    transfer,
)
from lensstudy.figures.analysis_answer import answer
from lensstudy.figures.common_test import original_at_rotations, recalls_beside_original
from lensstudy.figures.data import (
    class_means,
    ellipticities,
    examples,
    excluded,
    populations,
    radial_profiles,
    residuals,
    shortcuts,
)
from lensstudy.figures.failures import (
    accuracy_along,
    attributions,
    detection,
    mistakes,
)
from lensstudy.figures.first_look import network_scores, own_image, under_rotation, with_and_without
from lensstudy.figures.known_subhalo import found_subhalos, subhalo_profiles, subhalo_scans
from lensstudy.figures.ladder import detection_ladder, thresholds
from lensstudy.figures.modelled_sample import against_published, all_models
from lensstudy.figures.networks import (
    central_part,
    filter_orientations,
    invariance_curves,
    network_costs,
    permutations,
    rotated_features,
)
from lensstudy.figures.observations import (
    contact_sheet,
    lens_light,
    lens_model,
    network_inputs,
    ood_scores,
    perturbed_predictions,
    recovery_curves,
    sensitivity_maps,
)
from lensstudy.figures.predictions import explanations, predictions, rotations
from lensstudy.figures.sample_search import found_subhalos_by_mass, rates_of_false_alarms, residual_channels
from lensstudy.figures.style import draw_image, image_row, show, strip
from lensstudy.figures.training import (
    alternatives,
    importances,
    range_test,
    recalls,
    schedule,
    slices,
    training_curves,
    validation_confusion,
    worst_images,
)
from lensstudy.figures.transfer import chosen_beside_as_it_is, staircase

__all__ = [
    "accuracy_along",
    "against_published",
    "all_models",
    "alternatives",
    "attributions",
    "central_part",
    "class_means",
    "comparison",
    "confusion_matrices",
    "contact_sheet",
    "costs",
    "detection",
    "detection_ladder",
    "thresholds",
    "chosen_beside_as_it_is",
    "draw_image",
    "ellipticities",
    "examples",
    "excluded",
    "explanations",
    "filter_orientations",
    "found_subhalos",
    "found_subhalos_by_mass",
    "image_row",
    "invariance_curves",
    "answer",
    "learning_curves",
    "lens_light",
    "lens_model",
    "importances",
    "mistakes",
    "network_costs",
    "network_inputs",
    "network_scores",
    "ood_scores",
    "own_image",
    "permutations",
    "perturbed_predictions",
    "populations",
    "predictions",
    "radial_profiles",
    "range_test",
    "original_at_rotations",
    "recalls",
    "recalls_beside_original",
    "recovery_curves",
    "reliability",
    "rates_of_false_alarms",
    "residual_channels",
    "residuals",
    "robustness",
    "roc_curves",
    "rotated_features",
    "rotation_changes",
    "rotations",
    "schedule",
    "sensitivity_maps",
    "shortcuts",
    "show",
    "slices",
    "staircase",
    "strip",
    "subhalo_profiles",
    "subhalo_scans",
    "training_curves",
    "transfer",
    "validation_confusion",
    "worst_images",
    "under_rotation",
    "with_and_without",
]
