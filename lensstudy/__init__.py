"""What does symmetry buy? Equivariant networks for dark matter in gravitational lenses.

Everything that a notebook or a script needs is a name of this package: `read` or `simulate` a data set, `filter_images`
and split it, `build_network`, `fit`, judge what came out, `export` it, and let a `Predictor` predict for images of
one's own. The subpackages behind these names (`lensstudy.lensing`, `data`, `networks`, `training`, `evaluation`,
`deployment`, `observations`, `figures`, `report`) offer more; docs/architecture.md is the map.
"""

import lazy_loader as lazy

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "study": ["Study"],
        "data.dataset": ["LensDataset"],
        "data.reading": ["read"],
        "data.inspection": ["inspect"],
        "data.filtering": ["filter_images"],
        "data.simulation": ["simulate", "smooth_counterpart"],
        "data.preprocess": ["Preprocess"],
        "data.rotation": ["rotate"],
        "lensing.rendering": ["render", "substructure_map"],
        "networks.names": ["pretrained_names"],
        "networks.registry": ["build_network", "network_names", "register"],
        "networks.description": ["describe"],
        "networks.groups": ["invariance_error"],
        "training.fitting": ["fit", "range_test"],
        "training.run": ["load_run"],
        "training.tuning": ["search"],
        "evaluation.scores": ["score"],
        "evaluation.comparison": ["compare"],
        "evaluation.calibration": ["calibrate"],
        "evaluation.robustness": ["perturbations"],
        "evaluation.learning": ["learning_curve"],
        "evaluation.attribution": ["attribute"],
        "evaluation.ood": ["OODDetector"],
        "deployment.exporting": ["export"],
        "deployment.predictor": ["Predictor", "predict"],
        "deployment.pretraining": ["pretrained"],
        "observations.reading": ["read_observation"],
        "observations.lens_model": ["fit_lens_model"],
        "figures.style": ["show"],
        "figures": ["plots"],
    },
)
