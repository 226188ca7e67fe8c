"""The lazy selection against the plain loop, written here in float64, and against anomalib's."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from helpers.models.coreset import k_center_greedy

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def plain_loop(features: torch.Tensor, n_select: int, start: int = 0) -> list[int]:
    """Greedy k-center as the paper has it, one full pass a pick; ``argmax`` takes the lowest index of equals."""
    points = features.double().cpu().numpy()
    nearest = np.full(len(points), np.inf)
    picks = [start]
    while len(picks) < n_select:
        nearest = np.minimum(nearest, ((points - points[picks[-1]]) ** 2).sum(1))
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))
    return picks


def normal_points(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("n", "d", "n_select"), [(1, 1, 1), (5, 1, 5), (60, 3, 60), (300, 8, 120), (3000, 16, 200), (2500, 128, 60)]
)
@pytest.mark.parametrize("pool_size", [1, 7, 64, 2048])
def test_same_picks_as_the_plain_loop(n, d, n_select, pool_size, device):
    features = normal_points(n, d, seed=n + d)
    picks = k_center_greedy(features.to(device), n_select, pool_size=pool_size, chunk_size=500)
    assert picks.dtype == torch.int64 and picks.device.type == device
    assert picks.tolist() == plain_loop(features, n_select)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_by_its_exact_values_and_strided_ones_too(dtype):
    features = normal_points(1000, 12).to(dtype).T.contiguous().T[::2]
    before = features.clone()
    assert k_center_greedy(features, 80, pool_size=50, show_progress=True).tolist() == plain_loop(features, 80)
    assert torch.equal(features, before)


def test_ties_worked_out_by_hand():
    # 0 first; 4 and -4 are equally far: the lower index; then the other; then 2 and -2 (each 2 from two centres).
    features = torch.tensor([[0.0], [2.0], [-4.0], [4.0], [-2.0]])
    assert k_center_greedy(features, 5).tolist() == [0, 2, 3, 1, 4]
    same = torch.full((100, 7), 0.3)
    assert k_center_greedy(same, 100, pool_size=3, chunk_size=9).tolist() == list(range(100))
    assert k_center_greedy(same, 5, start=3).tolist() == [3, 0, 1, 2, 4]


@pytest.mark.parametrize("scale", [1, 1 + 1e-9])
@pytest.mark.parametrize("pool_size", [4, 50, 4096])
def test_copies_come_after_all_different_points_within_rounding_too(scale, pool_size):
    """Points that differ by less than what a matrix product can tell, and points of one length."""
    once = normal_points(60, 9, seed=6).double()
    once = torch.nn.functional.normalize(once) if scale == 1 else once
    features = torch.cat([once, once * scale, once, once.flip(0) * (2 - scale)])
    for n_select in (70, 130, len(features)):
        picks = k_center_greedy(features, n_select, pool_size=pool_size).tolist()
        assert picks == plain_loop(features, n_select) and len(set(picks)) == n_select


def test_every_photo_ten_times_is_not_a_pass_over_all_points_for_each_pick():
    """2,500 picks of 20,000 points; with a pass each over all of them about 40 s, else about 1 s."""
    features = normal_points(2000, 64, seed=7).repeat(10, 1)
    started = time.process_time()
    picks = k_center_greedy(features, 2500).tolist()
    assert time.process_time() - started < 15
    assert sorted(picks[:2000]) == list(range(2000)) and picks[2000:] == list(range(2000, 2500))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_small_grid_any_pool_any_chunk(data):
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 4)))
    points = data.draw(arrays.arrays(np.int8, shape, elements=st.integers(-5, 5)))
    features = torch.from_numpy(points).float() / 4
    n_select, start = data.draw(st.integers(1, shape[0])), data.draw(st.integers(0, shape[0] - 1))
    pool_size, chunk_size = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    picks = k_center_greedy(features, n_select, start=start, pool_size=pool_size, chunk_size=chunk_size).tolist()
    assert picks == plain_loop(features, n_select, start)


@pytest.mark.parametrize(
    ("features", "n_select", "start", "named"),
    [
        (torch.zeros(5, 2, dtype=torch.int64), 2, 0, "floating point"),
        (torch.zeros(5), 2, 0, "2-D"),
        (torch.zeros(5, 2), 0, 0, "n_select"),
        (torch.zeros(5, 2), 6, 0, "n_select"),
        (torch.zeros(5, 2), 2, 5, "start"),
        (torch.full((9000, 2), -float("inf")), 2, 0, "NaN or infinite"),
        (torch.eye(9000, 2) * float("nan"), 2, 0, "NaN or infinite"),
    ],
)
def test_arguments_out_of_range_are_named(features, n_select, start, named):
    with pytest.raises(ValueError, match=named):
        k_center_greedy(features, n_select, start=start)
