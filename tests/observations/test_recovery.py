"""Shares recovered of injected subhalos, and the least mass that is recovered."""

import math

import numpy as np
import pytest

from lensstudy.observations.recovery import least_mass, recovered_share


def test_recovery_and_the_least_mass():
    smooth = np.linspace(0, 1, 101)
    injected = np.array([[0.1, 0.2], [0.5, 0.99], [0.97, 0.99]])
    np.testing.assert_allclose(recovered_share(smooth, injected, 0.05), [0, 0.5, 1])
    masses = np.array([1e8, 1e9, 1e10])
    assert least_mass(masses, np.array([0.0, 0.0, 1.0])) == pytest.approx(10**9.5)
    assert least_mass(masses, np.array([0.8, 0.9, 1.0])) == 1e8
    assert least_mass(masses, np.array([0.8, 0.1, 0.5])) == pytest.approx(1e10)
    assert least_mass(masses, np.array([0.0, 0.9, 0.2])) == math.inf
