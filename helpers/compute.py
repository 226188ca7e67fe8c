"""Which device, at which precision, and how long a photo takes: warmed up, synchronised, by stage and batch size."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TIME_COLUMNS = ("stage", "batch_size", "n_photos", "n_calls", "mean_ms", "median_ms", "p95_ms")


def torch_device(device: str) -> str:
    """Torch's name of the device that ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` stands for on this machine."""
    import torch

    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    found += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    name = {"auto": found[0], "cuda": "cuda:0"}.get(device, device)
    if name not in found:
        raise ValueError(f"DEVICE={device!r}: torch sees {', '.join(found)} on this machine; take DEVICE='auto'.")
    return name


def trainer_device(device: str) -> dict[str, Any]:
    """Lightning's ``accelerator`` and ``devices`` for such a word."""
    kind, _, index = torch_device(device).partition(":")
    return {"accelerator": kind, "devices": [int(index)] if index else 1}


def synchroniser(device: str) -> Callable[[], Any]:
    """What waits until a device has done all it was given: work on a GPU is only queued when a call returns."""
    import torch

    if device.startswith("cuda"):
        return lambda: torch.cuda.synchronize(device)
    if device == "mps":
        return torch.mps.synchronize
    return lambda: None


def cpu_name() -> str:
    """Model of this machine's CPU, as exactly as the system says it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class _Tf32:
    """Who is in `full_precision`: the switch is the whole process's, so the last to leave puts it back."""

    lock, inside, before = threading.Lock(), 0, True


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions on an NVIDIA GPU in float32, not in TF32, which torch takes by default: for whatever makes a score.

    TF32 has 10 bits of fraction, and which products are rounded depends on the size of the batch: on an H200 scores of
    a U-Net and a DeepLabV3+ differed by up to 0.8 % between photos judged alone and in one batch of 16; in float32 by
    2e-6 at most.
    """
    import torch

    with _Tf32.lock:
        if _Tf32.inside == 0:
            _Tf32.before = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = False
        _Tf32.inside += 1
    try:
        yield
    finally:
        with _Tf32.lock:
            _Tf32.inside -= 1
            if _Tf32.inside == 0:
                torch.backends.cudnn.allow_tf32 = _Tf32.before


def time_stages(
    stages: Mapping[str, Callable[[Any], Any]],
    photos: Sequence[Any],
    batch_sizes: Iterable[int] = (1, 16),
    *,
    warmup: int = 2,
    repeats: int = 1,
    synchronise: Callable[[], Any] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Milliseconds per photo of every stage (a function of a batch) at every batch size, on the same photos.

    Photos left over from the last whole batch are not timed: a smaller batch has another speed. The first ``warmup``
    calls do not count: caches fill, kernels get chosen. `TIME_COLUMNS`: ``n_photos`` timed in a round, ``n_calls`` in
    all, and mean, median and 95th percentile.
    """
    rows = []
    for (name, function), size in product(stages.items(), batch_sizes):
        if not 1 <= size <= len(photos):
            raise ValueError(f"batch_sizes must lie in 1..{len(photos)}, the number of photos; got {size}.")
        batches, times = [photos[start : start + size] for start in range(0, len(photos) - size + 1, size)], []
        for batch in [*islice(cycle(batches), warmup), *batches * repeats]:
            synchronise()
            start = clock()
            function(batch)
            synchronise()
            times.append(1000 * (clock() - start) / size)
        times = times[warmup:]
        figures = np.mean(times), np.median(times), np.quantile(times, 0.95)
        rows.append((name, size, size * len(batches), len(times), *map(float, figures)))
    return pd.DataFrame(rows, columns=list(TIME_COLUMNS))


def throughput_against_defects(
    stage_ms: tuple[float, float], pass_rate_normal: float, pass_rate_defect: float
) -> pd.DataFrame:
    """Photos per second of a cascade of two stages, and of each stage alone, against the share d of defects.

    A share p = d * pass_rate_defect + (1 - d) * pass_rate_normal goes on to stage 2, and a photo takes
    stage_ms[0] + p * stage_ms[1] on average: where a stage takes the same time for every photo, its batches filled.
    """
    defects = np.linspace(0, 1, 21)
    passed = (1 - defects) * pass_rate_normal + defects * pass_rate_defect
    milliseconds = stage_ms[0] + passed * stage_ms[1]
    table = pd.DataFrame({"defect_share": defects, "passed": passed, "cascade_ms": milliseconds})
    return table.assign(cascade=1000 / milliseconds, stage_1=1000 / stage_ms[0], stage_2=1000 / stage_ms[1])
