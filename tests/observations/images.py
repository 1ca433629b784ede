"""Images of noise and PSFs, as arrays and as FITS files."""

import numpy as np
from astropy.io import fits


def noise_image(size=40, seed=0):
    return np.random.default_rng(seed).normal(0, 1.0, (size, size))


def write_fits(file, array, **header):
    fits.PrimaryHDU(array, fits.Header(header)).writeto(file)
    return file


def gaussian(size, row, column, sigma=1.6):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
