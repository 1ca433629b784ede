"""Real telescope images: reading cutouts, the lens galaxy's light, smooth lens models, subhalos put in and found."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "cutouts": ["Observation"],
        "lens_light": ["fit_lens_light", "subtract_lens_light"],
        "smooth_model": ["fit_smooth"],
    },
)
