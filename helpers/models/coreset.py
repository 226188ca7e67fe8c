"""Exact greedy k-center selection, lazily evaluated.

PatchCore keeps a coreset of its patch features: the greedy k-center subset (Sener & Savarese 2018, "Active learning
for convolutional neural networks: a core-set approach", Algorithm 1; PatchCore: Roth et al. 2022, Algorithm 1). The
plain loop updates the distance of every patch at every pick. Distances to the nearest centre only ever fall, so an old
distance is an upper bound, and a patch whose bound is below the best known distance need not be looked at. The picks
are the same; most of the work is not done (the idea of lazy greedy evaluation: Minoux 1978).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from helpers.progress import progress

CHUNK_SIZE = 8192


def k_center_greedy(
    features: torch.Tensor,
    n_select: int,
    *,
    start: int = 0,
    pool_size: int = 2048,
    chunk_size: int = CHUNK_SIZE,
    show_progress: bool = False,
) -> torch.Tensor:
    """Pick the points that the plain greedy k-center loop picks, in the same order.

    Each pick is the point with the largest Euclidean distance to the nearest point picked before; equal distances go to
    the lowest index; no point is picked twice. Distances are compared in float64, so float32 features decide picks by
    their exact values and not by rounding.

    ``features`` are (N, D), finite, floating point, on any device; so are the picks (n_select,) int64, in order.
    ``pool_size``, how many of the largest bounds are refreshed together, and ``chunk_size``, how many rows are
    converted to float64 at once, change speed and memory, never the picks.
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be a 2-D floating point tensor, got {features.dtype} {tuple(features.shape)}.")
    if not 1 <= n_select <= len(features):
        raise ValueError(f"n_select must be between 1 and the number of points, {len(features)}, got {n_select}.")
    if not 0 <= start < len(features):
        raise ValueError(f"start must be between 0 and {len(features) - 1}, got {start}.")
    if not all(torch.isfinite(rows).all() for rows in features.split(CHUNK_SIZE)):
        raise ValueError("features hold NaN or infinite values; check the photos and the backbone that made them.")
    selection = _LazySelection(features, start, pool_size, chunk_size)
    picks: Iterator[int] = selection.picks(n_select)
    if show_progress:
        picks = progress(picks, "coreset", total=n_select)
    return torch.tensor(list(picks), dtype=torch.int64, device=features.device)


class _LazySelection:
    """The state of one selection: for every point a bound of its squared distance, and how old that bound is."""

    def __init__(self, features: torch.Tensor, start: int, pool_size: int, chunk_size: int) -> None:
        (n_points, n_dims), device = features.shape, features.device
        self.features, self.start = features, start
        self.pool_size, self.chunk_size = min(pool_size, n_points), chunk_size
        self.square_norm = torch.cat([rows.double().square().sum(1) for rows in features.split(chunk_size)])
        # Rounding of |x|^2 + |c|^2 - 2 x.c: points nearer to each other than this are looked at as possible ties.
        self.tolerance = 8 * torch.finfo(torch.float64).eps * n_dims**0.5 * float(self.square_norm.max())
        self.bound = torch.full((n_points,), float("inf"), dtype=torch.float64, device=device)
        self.seen = torch.zeros(n_points, dtype=torch.int64, device=device)  # centres that the bound knows of
        self.centers: list[int] = []

    def picks(self, n_select: int) -> Iterator[int]:
        yield self._add_center(self.start)
        for rows in torch.arange(len(self.bound), device=self.bound.device).split(self.chunk_size):
            self._refresh(rows)
        while len(self.centers) < n_select:
            apart = float(self.bound.max()) > self.tolerance
            yield from self._picks_from_pool(n_select) if apart else self._picks_among_copies(n_select)

    def _picks_from_pool(self, n_select: int) -> Iterator[int]:
        """Pick while the best point of a fresh pool is above every bound outside it."""
        pool, outside = self._fresh_pool()
        rows, norms, bound = self.features[pool].double(), self.square_norm[pool], self.bound[pool]
        n_before = len(self.centers)
        while len(self.centers) < n_select:
            best = float(bound.max())
            if best <= max(outside, 0.0) + self.tolerance:
                break
            ties = bound >= best - self.tolerance
            pick = self._lowest_tie(pool[ties], bound[ties])
            yield self._add_center(pick)
            distance = norms + self.square_norm[pick] - 2 * (rows @ self.features[pick].double())
            torch.minimum(bound, distance.clamp_(min=0), out=bound)
            bound[pool == pick] = -1.0
        self.bound[pool], self.seen[pool] = bound, len(self.centers)
        if len(self.centers) == n_before and float(bound.max()) > self.tolerance:
            yield self._add_center(self._pick_across_pool_border())

    def _fresh_pool(self) -> tuple[torch.Tensor, float]:
        """Indices of the largest bounds, all brought up to date, and the largest bound outside them."""
        while True:
            bounds, order = self.bound.topk(min(self.pool_size + 1, len(self.bound)))
            pool = order[: self.pool_size]
            outside = float(bounds[-1]) if len(bounds) > self.pool_size else -float("inf")
            stale = pool[self.seen[pool] < len(self.centers)]
            if len(stale):
                self._refresh(stale)
            if not len(stale) or float(self.bound[pool].max()) > outside + self.tolerance:
                return pool, outside

    def _pick_across_pool_border(self) -> int:
        """The next pick, found among all points: for where more points tie than the pool holds."""
        while True:
            fresh = self.seen == len(self.centers)
            best_fresh = float(torch.where(fresh, self.bound, -1.0).max())
            candidates = (self.bound >= best_fresh - self.tolerance).nonzero().squeeze(1)
            stale = candidates[~fresh[candidates]]
            if not len(stale):
                return self._lowest_tie(candidates, self.bound[candidates])
            self._refresh(stale[: self.chunk_size])

    def _picks_among_copies(self, n_select: int) -> Iterator[int]:
        """Finish where every point left is a copy of a centre within rounding: the plain loop, on exact differences.

        Only points within rounding of each other change each other's distance, and such lie together along any line.
        """
        device = self.bound.device
        line = torch.randn(self.features.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        line = (line / line.norm()).to(device)
        along = torch.cat([rows.double() @ line for rows in self.features.split(self.chunk_size)])
        places, order = along.sort()
        reach = 4 * self.tolerance**0.5
        exact = torch.full_like(self.bound, float("inf"))

        def lower(center: int) -> None:
            first = int(torch.searchsorted(places, along[center] - reach))
            last = int(torch.searchsorted(places, along[center] + reach, right=True))
            point = self.features[center].double()
            for near in order[first:last].split(self.chunk_size):
                distance = (self.features[near].double() - point).square_().sum(1)
                exact[near] = torch.minimum(exact[near], distance)

        for center in self.centers:
            lower(center)
        exact[torch.tensor(self.centers, device=device)] = -1.0
        while len(self.centers) < n_select:
            distance, index = exact.max(0)  # of equal ones the lowest index
            yield self._add_center(int(index))
            if distance > 0:  # a copy of a centre changes no other distance
                lower(int(index))
            exact[index] = -1.0

    def _lowest_tie(self, candidates: torch.Tensor, bounds: torch.Tensor) -> int:
        """Of candidates within rounding of the best, the lowest index that is as far, or the same point as one that is.

        A matrix product may round the distances of two equal points differently, so equal points are compared as such.
        """
        if len(candidates) == 1:
            return int(candidates[0])
        best = self.features[candidates[bounds.argmax()]]
        ties = (bounds == bounds.max()) | self.features[candidates].eq(best).all(1)
        return int(candidates[ties].min())

    def _add_center(self, index: int) -> int:
        self.centers.append(index)
        self.bound[index] = -1.0
        return index

    def _refresh(self, rows: torch.Tensor) -> None:
        """Bring the bounds of some points up to date: one matrix product with the centres that they have not seen."""
        first_unseen = int(self.seen[rows].min())
        points = self.features[rows].double()
        for first in range(first_unseen, len(self.centers), self.chunk_size):
            centers = torch.tensor(self.centers[first : first + self.chunk_size], device=rows.device)
            product = points @ self.features[centers].double().T
            distance = product.mul_(-2).add_(self.square_norm[centers]).amin(1).add_(self.square_norm[rows])
            self.bound[rows] = torch.minimum(self.bound[rows], distance.clamp_(min=0))
        self.bound[torch.tensor(self.centers, device=rows.device)] = -1.0
        self.seen[rows] = len(self.centers)
