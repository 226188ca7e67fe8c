"""How near a reconstruction is, by hand and by construction."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.inference.reconstruction import reconstruction_errors


def test_errors_by_hand():
    draw = np.random.default_rng(0)
    photo = draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    grey, lighter = np.full((40, 50, 3), 100, np.uint8), np.full((40, 50, 3), 151, np.uint8)
    found = reconstruction_errors([photo, grey], [photo, lighter])
    assert found["mse"].tolist() == pytest.approx([0.0, (51 / 255) ** 2])
    # without contrast in either, only the term of the means is left (Wang et al. 2004, equation 6)
    constant = (0.01 * 255) ** 2
    luminance = (2 * 100 * 151 + constant) / (100**2 + 151**2 + constant)
    assert found["ssim"].tolist() == pytest.approx([1.0, luminance], rel=1e-6)
    assert list(reconstruction_errors([], []).columns) == ["mse", "ssim"]
