"""Real telescope images of lenses.

Reading cutouts, subtracting the light of the lens galaxy, smooth lens models, injection and recovery of subhalos, and
whether an image is in the distribution of a network's training images.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "reading": ["read_observation", "read_observations"],
        "cutouts": ["Observation"],
        "lens_light": ["fit_lens_light", "subtract_lens_light", "ring_radius"],
        "lens_model": ["LensModel", "expected_arcs", "fit_lens_model"],
        "subhalos": ["Subhalo"],
        "lens": ["Lens"],
        "model_fits": ["fit_folder"],
        "one_subhalo": ["SubhaloSearch"],
        "modelled_sample": ["ModelledSample", "model_in_detail"],
        "sample": ["LensSample"],
        "distribution": ["SubstructureNetwork", "TrainingDistribution", "open_network", "prepare_networks"],
        "consistency": ["Consistency", "perturbed"],
        "recovery": ["Recovery", "recovered_share", "least_mass"],
        "validation": ["DistributionCheck", "Validation"],
        "searched_lens": ["SearchedLens"],
        "known_subhalo": ["KnownSubhalo"],
        "sample_images": ["SampleImages"],
        "sample_search": ["SampleSearch"],
    },
)
