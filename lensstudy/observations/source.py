"""The source of a lens as a regularised surface, which follows from the data linearly.

Brightness in the source plane is a sum of B-splines, finer where rays of bright pixels end. Its coefficients minimise
chi square plus a penalty on their differences; how strong that is, the Bayesian evidence says (Suyu et al. 2006).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import linalg, sparse
from scipy.interpolate import BSpline, NdBSpline

__all__ = ["Mesh", "Solution", "solve"]

DEGREE = 2  # of the splines: brightness with a continuous slope
EVENLY = 0.5  # share of the mesh's cells that are spread evenly, the others go where bright rays end


@dataclass(frozen=True)
class Mesh:
    """Tensor products of B-splines in the source plane, dark at its edge.

    Attributes:
        knots: of the splines along x and along y, in arcseconds.
    """

    knots: tuple[np.ndarray, np.ndarray]
    center: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def around(cls, x: np.ndarray, y: np.ndarray, weight: np.ndarray, cells: int, reach: float) -> Mesh:
        """A mesh of `cells` x `cells` splines about the points `(n,)` with a `weight`, finer where that is high, and
        within `reach` arcseconds of their median along each axis, its `center`."""
        x, y, weight = x[weight > 0], y[weight > 0], weight[weight > 0]
        knots = _knots(x, weight, cells, reach), _knots(y, weight, cells, reach)
        return cls(knots, (_median(x, weight), _median(y, weight)))

    def placed(self, x: float, y: float, scale: float) -> Mesh:
        """The mesh `scale` times as large, with what was its origin at a place."""
        knots = self.knots[0] * scale + x, self.knots[1] * scale + y
        return Mesh(knots, (self.center[0] * scale + x, self.center[1] * scale + y))

    def falling(self, radius: float) -> np.ndarray:
        """How bright each spline `(cells^2,)` is expected to be beside one in the `center`: one half at `radius`."""
        x, y = (
            np.convolve(knots[1:-1], [0.5, 0.5], "valid") - middle
            for knots, middle in zip(self.knots, self.center, strict=True)
        )
        return (1 / (1 + (x[None, :] ** 2 + y[:, None] ** 2) / radius**2)).ravel()

    @property
    def cells(self) -> int:
        """Number of splines along an axis."""
        return len(self.knots[0]) - DEGREE - 1

    @property
    def extent(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where it begins and ends along x and along y, in arcseconds."""
        x, y = ((float(knots[0]), float(knots[-1])) for knots in self.knots)
        return x, y

    def design(self, x: np.ndarray, y: np.ndarray) -> sparse.csr_array:
        """What each spline adds to the brightness at points `(n,)`: `(n, cells^2)`, splines along x running fastest."""
        return _products(*(_splines(axis, knots, DEGREE) for axis, knots in zip((x, y), self.knots, strict=True)))

    def brightness(self, coefficients: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The brightness at points of any shape, zero beyond the mesh: `design` times `coefficients`, but faster."""
        table = np.pad(coefficients.reshape(self.cells, self.cells), DEGREE)
        spline = NdBSpline(tuple(_padded(knots) for knots in self.knots[::-1]), table, DEGREE, extrapolate=False)
        return np.nan_to_num(spline(np.stack([y, x], axis=-1)))

    def slopes(self, coefficients: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives along x and y of the brightness at points `(n,)`, zero beyond the mesh."""
        table = coefficients.reshape(self.cells, self.cells)
        found = []
        for axis in (0, 1):
            knots, degrees = self.knots[axis], [DEGREE, DEGREE]
            rise = DEGREE / (knots[DEGREE:] - knots[:-DEGREE])  # of a spline of one degree less, for each coefficient
            padded = np.pad(table, [(0, 0), (1, 1)] if axis == 0 else [(1, 1), (0, 0)])
            steps = np.diff(padded, axis=1 - axis) * (rise if axis == 0 else rise[:, None])
            degrees[axis] -= 1
            along = [_splines(*one) for one in zip((x, y), self.knots, degrees, strict=True)]
            found.append(_products(*along) @ steps.ravel())
        return found[0], found[1]


def _splines(place: np.ndarray, knots: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Values `(n, degree + 1)` of the splines that are not zero at each point, their numbers, and how many there are:
    those that end at the outermost knots at the latest."""
    count, inside = len(knots) - degree - 1, (place >= knots[0]) & (place < knots[-1])
    # All places are inside: extrapolate=True skips SciPy's check of that, a loop of Python over all of them.
    matrix = BSpline.design_matrix(np.where(inside, place, knots[0]), _padded(knots, degree), degree, extrapolate=True)
    number = matrix.indices.reshape(len(place), degree + 1) - degree
    values = matrix.data.reshape(len(place), degree + 1)
    values = np.where(inside[:, None] & (number >= 0) & (number < count), values, 0.0)
    return values, np.clip(number, 0, count - 1), count


def _padded(knots: np.ndarray, degree: int = DEGREE) -> np.ndarray:
    """The knots, with as many beyond each end as it takes for splines of that degree to add up to one between them."""
    first, last, beyond = knots[1] - knots[0], knots[-1] - knots[-2], np.arange(1, degree + 1)
    return np.concatenate([knots[0] - first * beyond[::-1], knots, knots[-1] + last * beyond])


def _knots(place: np.ndarray, weight: np.ndarray, cells: int, reach: float) -> np.ndarray:
    """Knots between which lie equal shares of weight, mixed with evenly spread ones, and a margin on both sides."""
    order = np.argsort(place)
    place, share = place[order], np.cumsum(weight[order]) / weight.sum()
    low, middle, high = np.interp([0.002, 0.5, 0.998], share, place)
    margin = 0.15 * (high - low) + 0.02
    low, high = max(low - margin, middle - reach), min(high + margin, middle + reach)
    even = np.linspace(low, high, 400)
    held = np.interp(even, place, share)
    spread = EVENLY * np.linspace(0, 1, len(even)) + (1 - EVENLY) * (held - held[0]) / (held[-1] - held[0])
    return np.interp(np.linspace(0, 1, cells + DEGREE + 1), spread, even)


def _median(place: np.ndarray, weight: np.ndarray) -> float:
    order = np.argsort(place)
    return float(np.interp(0.5, np.cumsum(weight[order]) / weight.sum(), place[order]))


def _products(along_x, along_y) -> sparse.csr_array:
    """The design of products of splines from those along x and y."""
    (value_x, place_x, count_x), (value_y, place_y, count_y) = along_x, along_y
    values = (value_y[:, :, None] * value_x[:, None, :]).reshape(len(value_x), -1)
    places = (place_y[:, :, None] * count_x + place_x[:, None, :]).reshape(len(value_x), -1)
    starts = np.arange(0, values.size + 1, values.shape[1])
    return sparse.csr_array((values.ravel(), places.ravel(), starts), shape=(len(value_x), count_x * count_y))


@lru_cache(maxsize=8)
def _penalty(cells: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The penalty `(cells^2, cells^2)` on differences between neighbours, the edge's with the darkness beyond; the
    inverse of its Cholesky factor; and the logarithm of its determinant."""
    steps = np.diff(np.eye(cells + 2), axis=0)[:, 1:-1]
    one, unit = steps.T @ steps, np.eye(cells)
    penalty = np.kron(one, unit) + np.kron(unit, one)
    factor = linalg.cholesky(penalty, lower=True)
    inverse = linalg.solve_triangular(factor, np.eye(len(factor)), lower=True)
    return penalty, inverse, float(2 * np.log(np.diagonal(factor)).sum())


@dataclass(frozen=True)
class Solution:
    """The source, and the light of the lens galaxy, that fit an image best for one lens.

    Attributes:
        source: coefficients of the mesh.
        galaxy: changes of the amplitudes of the lens galaxy's light.
        strength: of the regularisation.
        cost: chi square and penalties together, which the best lens has least of.
        evidence: minus twice the logarithm of the evidence, up to a constant of the data.
        image: `(n,)`, in units of the noise.
    """

    source: np.ndarray
    galaxy: np.ndarray
    strength: float
    cost: float
    evidence: float
    image: np.ndarray
    _design: np.ndarray
    _factor: tuple[np.ndarray, bool]
    _penalty: np.ndarray

    @property
    def free(self) -> float:
        """Effective number of parameters of the source."""
        sources = len(self._penalty)
        half = linalg.solve_triangular(self._factor[0][:sources, :sources], np.eye(sources), lower=True)
        return sources - self.strength * float((half * (half @ self._penalty)).sum())

    def beyond(self, changes: np.ndarray) -> np.ndarray:
        """`(k, k)` products of images `(n, k)`, in units of the noise, of what source and galaxy cannot do of them."""
        along = self._design.T @ changes.astype(self._design.dtype)
        return changes.T @ changes - along.T @ linalg.cho_solve(self._factor, along.astype(float))


def solve(
    design: np.ndarray,
    data: np.ndarray,
    galaxy: np.ndarray,
    precision: np.ndarray,
    pull: np.ndarray,
    cells: int,
    strength: float | None = None,
) -> Solution:
    """Find the source that fits best, and how strongly it is best regularised.

    Args:
        design: `(n, cells^2)`, what each spline adds to each pixel, in units of its noise.
        data: `(n,)`, the image in units of its noise.
        galaxy: `(n, k)`, what each part of the lens galaxy's light adds, likewise.
        precision, pull: `(k, k)` and `(k,)`, inverse covariance of the changes of these parts, and that times their
            mean, as the rest of the image has them.
        cells: of the mesh, along each axis.
        strength: of the regularisation (default: that of most evidence).
    """
    penalty, inverse, log_determinant = _penalty(cells)
    both = np.concatenate([design, galaxy], axis=1)
    normal = (both.T @ both).astype(float)
    along = (both.T @ data).astype(float)
    sources = design.shape[1]
    normal[sources:, sources:] += precision
    along[sources:] += pull
    if strength is None:
        strength = _best_strength(normal, along, sources, inverse)
    normal[:sources, :sources] += strength * penalty
    factor = linalg.cho_factor(normal, lower=True)
    found = linalg.cho_solve(factor, along)
    image = (both @ found.astype(both.dtype)).astype(float)
    own = found[sources:]
    cost = float(((data - image) ** 2).sum() + strength * found[:sources] @ penalty @ found[:sources])
    cost += float(own @ precision @ own - 2 * pull @ own)
    log_normal = 2 * np.log(np.diagonal(factor[0])).sum()
    evidence = cost + log_normal - sources * np.log(strength) - log_determinant
    return Solution(found[:sources], found[sources:], strength, cost, float(evidence), image, both, factor, penalty)


def _best_strength(normal: np.ndarray, along: np.ndarray, sources: int, inverse: np.ndarray) -> float:
    """The strength of most evidence, with the galaxy's light marginalised: in coordinates in which penalty and normal
    matrix are both diagonal."""
    seen, mixed, own = normal[:sources, :sources], normal[:sources, sources:], normal[sources:, sources:]
    if own.size:
        share = linalg.solve(own, mixed.T, assume_a="pos")
        seen, along = seen - mixed @ share, along[:sources] - share.T @ along[sources:]
    sizes, axes = linalg.eigh(inverse @ seen @ inverse.T)
    sizes, parts = np.clip(sizes, 0, None), (axes.T @ (inverse @ along[:sources])) ** 2
    strengths = np.geomspace(1e-3, 1e6, 181)
    evidence = [-(parts / (sizes + s)).sum() + np.log1p(sizes / s).sum() for s in strengths]
    return float(strengths[int(np.argmin(evidence))])
