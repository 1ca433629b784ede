"""Smooth models for a whole folder of lenses, unattended: a row of a table and a figure for each, and what failed.

Every lens leaves files of its own, so that a run that was stopped goes on where it was, and one bad lens stops nothing.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensstudy import __version__
from lensstudy.data.dataset import DataError
from lensstudy.files import read_json, whole_file, write_json
from lensstudy.observations.cutouts import Observation
from lensstudy.observations.lens import Lens
from lensstudy.observations.lens_model import LensModel, isothermal
from lensstudy.observations.reading import read_observations
from lensstudy.progress import in_processes

__all__ = ["doubts", "fingerprint", "fit_folder", "row_of_light", "row_of_model"]

CHI2 = 2.0  # a pixel, above which a model does not explain the image
LEAD = 100.0  # of evidence, as in `LensModel.second`, below which another Einstein radius explains the arcs as well
DRIFT = 0.15  # of the Einstein radius, between coarse pixels with a small source and the image's own with a free one


def fit_folder(
    path: str | Path,
    out: str | Path,
    pixel_scale: float | None = None,
    done: Callable[[dict], None] = lambda row: None,
    draw: Callable[[Lens, LensModel], bytes] | None = None,
    processes: int = 1,
) -> pd.DataFrame:
    """Fit a smooth model to every lens at a path.

    Args:
        path: a folder or file, as for `read_observations`.
        out: folder for the results: `lenses.csv`, and of each lens `NAME.json` (its row) and `NAME.npz` (its images,
            see `Lens.planes`). What is there for the same pixels is kept.
        pixel_scale: in arcseconds, for files that do not hold it.
        done: takes the row of each lens once it is there.
        draw: draws a lens and its model as PNG, for `NAME.png`.
        processes: of one thread each that fit.

    Returns:
        The table, one row a lens. `state` is `ok`, `doubtful` or `failed`, `reason` why; angles are in arcseconds and
        directions in degrees counter-clockwise from +x of the image.

    Raises:
        DataError: nothing at the path can be read.

    Example:
        >>> fit_folder("lenses", "fits", pixel_scale=0.05)  # doctest: +SKIP
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    observations, rejected = read_observations(path, pixel_scale)
    rows = [{"lens": where, "band": "", "state": "failed", "reason": why} for where, why in rejected.items()]
    for row in rows:
        done(row)
    kept = [_kept(observation, out) for observation in observations]
    missing = [(one, out, draw) for one, row in zip(observations, kept, strict=True) if row is None]
    fitted = in_processes(_fitted, missing, processes)
    for row in kept:
        rows.append(row or next(fitted))
        done(rows[-1])
        with whole_file(out / "lenses.csv") as file:
            pd.DataFrame(rows).to_csv(file, index=False)
    return pd.DataFrame(rows)


def _kept(observation: Observation, out: Path) -> dict | None:
    """The row of an earlier run for the same pixels, if there is one."""
    file = out / f"{_called(observation)}.json"
    row = read_json(file) if file.exists() else {}
    return row if row.get("fingerprint") == fingerprint(observation) else None


def _fitted(observation: Observation, out: Path, draw: Callable | None) -> dict:
    """The row of a lens, once its model, or what came of it, is written."""
    began, name = time.process_time(), _called(observation)
    row: dict[str, Any] = {"lens": observation.name, "band": observation.band, "state": "failed", "reason": ""}
    try:
        lens = Lens.of(observation)
        row |= row_of_light(lens)
        lens = lens.modelled()
        row |= row_of_model(lens, lens.model)
        if draw:
            (out / f"{name}.png").write_bytes(draw(lens, lens.model))
    except (DataError, np.linalg.LinAlgError) as error:
        row |= {"state": "failed", "reason": str(error)}
    if "ring_radius" in row:
        with whole_file(out / f"{name}.npz") as file:
            planes: dict[str, Any] = dict(lens.planes)
            np.savez_compressed(file, **planes)
        row |= {"planes": f"{name}.npz"}
    row |= {"seconds": time.process_time() - began, "fingerprint": fingerprint(observation)}
    row |= {f"published_{key}": value for key, value in observation.about.items() if isinstance(value, float | str)}
    write_json(out / f"{name}.json", row)
    return row


def _called(observation: Observation) -> str:
    return str(observation).replace(" ", "-").replace("/", "-")


def fingerprint(observation: Observation, *settings: object) -> str:
    """What a result for an observation depends on, its pixels and what is known of it, and the `settings` of a fit."""
    digest = hashlib.sha256(__version__.encode())
    for array in (observation.image, observation.noise, observation.mask, observation.psf):
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    digest.update(repr((observation.pixel_scale, observation.about, *settings)).encode())
    return digest.hexdigest()[:16]


def row_of_light(lens: Lens) -> dict[str, float]:
    """What is known of a lens before it has a model: its noise, the light of its galaxy, and where its arcs are."""
    e1, e2 = lens.light.ellipticity[2:]
    modulus = math.hypot(e1, e2)
    return {
        "ring_radius": lens.ring_radius,
        "signal": lens.signal,
        "noise_correlation": lens.observation.correlation,
        "light_chi2": lens.light.chi2,
        "light_chi2_core": lens.light.chi2_core,
        "light_axis_ratio": (1 - modulus) / (1 + modulus),
        "light_axis": math.degrees(0.5 * math.atan2(e2, e1)) % 180,
    }


def row_of_model(lens: Lens, model: LensModel) -> dict[str, Any]:
    """The model of a lens: its parameters, their errors, chi square, and whether it is doubtful and why."""
    errors = {f"{name}_error": error for name, error in zip(model.names, model.errors.tolist(), strict=True)}
    radius, ratio, axis = isothermal(model.values)
    other, behind = model.second
    row = {
        **model.parameters,
        **errors,
        "axis_ratio": model.axis_ratio,
        "axis": model.axis,
        "sie_einstein_radius": radius,
        "sie_axis_ratio": ratio,
        "sie_axis": axis,
        "started_einstein_radius": model.started,
        "second_einstein_radius": other if math.isfinite(behind) else None,
        "second_chi2": behind if math.isfinite(behind) else None,
        "at_limits": " ".join(model.at_limits),
        "fitted_pixels": int(model.used.sum()),
        "chi2": model.chi2,
        "chi2_arcs": float((model.residuals[model.used & lens.light.arcs] ** 2).mean()),
        "source_parameters": model.solution.free,
        "redshift_lens": model.redshifts[0],
        "redshift_source": model.redshifts[1],
    }
    why = doubts(row)
    return {"state": "doubtful" if why else "ok", "reason": "; ".join(why), **row}


def doubts(row: dict) -> list[str]:
    """Why the Einstein radius in a row of `row_of_model` may be wrong, as far as the image tells."""
    why = []
    if row["chi2"] > CHI2:
        why.append(f"chi square a pixel: {row['chi2']:.2f}")
    if row["second_chi2"] is not None and row["second_chi2"] < LEAD:
        why.append(f"an Einstein radius of {row['second_einstein_radius']:.2f} explains the arcs about as well")
    if abs(row["einstein_radius"] / row["started_einstein_radius"] - 1) > DRIFT:
        why.append(f"with a small source the Einstein radius is {row['started_einstein_radius']:.2f}")
    if "slope" in row["at_limits"].split():
        why.append(f"the slope ends at its limit: {row['slope']:.2f}")
    return why
