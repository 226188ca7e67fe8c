"""The real series, small, cell by cell with nbval."""

import os
import subprocess
import sys

import nbformat
import pytest
from conftest import REPOSITORY

from helpers import pipeline

pytestmark = pytest.mark.slow


def test_nbval_runs_prepared_copies(small_mesh, series_settings, tmp_path):
    """Copies with the profile's parameters, in a folder of their own: nothing depends on where a notebook lies."""
    settings = [*series_settings, f"DATASET={small_mesh}", f"ARTIFACTS={tmp_path / 'artifacts'}"]
    copies = pipeline.prepare("smoke", tmp_path / "copies", settings)
    environment = {**os.environ, "HELPERS_HEADLESS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-x", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *map(str, copies)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
    n_cells = sum(cell.cell_type == "code" for copy in copies for cell in nbformat.read(copy, as_version=4).cells)
    assert f"{n_cells} passed" in done.stdout
    assert (tmp_path / "artifacts" / "mesh" / "smoke" / "leaderboard.csv").is_file()
