"""Evaluation of networks by their probabilities and gradients.

Scores with intervals and paired tests, calibration, predictions under perturbations of the images and from fewer
training images, images out of distribution, and attribution of a prediction to pixels.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "analysis": ["Analysis"],
        "scores": [
            "score",
            "point_estimates",
            "auc",
            "bootstrap_interval",
            "resampling",
            "confusion",
            "roc",
            "largest_change",
            "summarise",
            "format_interval",
            "format_p",
            "counted",
        ],
        "intervals": ["interval", "influence", "wilson", "coverage"],
        "comparison": ["compare", "Difference", "pairwise", "mcnemar", "holm", "in_words"],
        "calibration": ["calibrate", "Calibration", "reliability", "tempered"],
        "robustness": ["perturbations", "predict_perturbed", "rotation_change", "transfer_matrix"],
        "staircase": ["Staircase", "walk"],
        "truth": ["physical_parameters", "accuracy_along", "detection_rate", "mistakes"],
        "failures": ["Failures"],
        "ladder": ["Ladder", "auc_along", "ideal_auc"],
        "learning": ["learning_curve", "images_to_match"],
        "attribution": ["attribute", "group_averaged", "integrated_gradients", "share_on_light"],
        "ood": ["OODDetector", "image_statistics", "thumbnails"],
    },
)
