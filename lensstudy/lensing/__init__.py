"""Gravitational lensing: from a population of lenses to images with noise.

Deflections and light are pure batched torch functions (`profiles`); a preset draws lenses from its population; rays are
traced from every pixel to the source, blurred by the instrument's point spread function, and counted. This subpackage
imports nothing of the project: take it alone to render lenses of your own.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "rendering": ["render", "substructure_map"],
        "simulation": ["draw_batch"],
        "between": ["Between"],
        "fitting": ["smooth_fit"],
        "presets": ["PRESETS", "LensingError"],
        "populations": ["CLASSES"],
        "instruments": ["INSTRUMENTS", "Instrument"],
        "profiles": ["sie", "shear", "point_mass", "nfw", "truncated_nfw", "line", "sersic"],
    },
)
