"""Which device, at which precision, and how long a photo takes: warmed up, synchronised, by stage and batch size."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TIME_COLUMNS = ("stage", "batch_size", "n_photos", "n_calls", "mean_ms", "median_ms", "p95_ms")


def trainer_device(device: str) -> dict[str, Any]:
    """Lightning's ``accelerator`` and ``devices`` for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ValueError: for another word, or a device that this machine does not have.
    """
    import torch

    if device in ("auto", "cpu"):
        return {"accelerator": device, "devices": 1}
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("DEVICE='mps': this machine has no Apple GPU that torch can use; take DEVICE='auto'.")
        return {"accelerator": "mps", "devices": 1}
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise ValueError(f"DEVICE={device!r}: expected auto, cpu, cuda, cuda:N or mps.")
    index = int(number or 0)
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise ValueError(f"DEVICE={device!r}: torch sees {torch.cuda.device_count()} CUDA devices; take DEVICE='auto'.")
    return {"accelerator": "gpu", "devices": [index]}


def torch_device(device: str) -> str:
    """The torch name of the device that ``auto`` (or another word for :func:`trainer_device`) stands for here."""
    import torch

    trainer_device(device)
    if device != "auto":
        return "cuda:0" if device == "cuda" else device
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def synchroniser(device: str) -> Callable[[], Any]:
    """What waits until a device has done all it was given: work on a GPU is only queued when a call returns.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
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


def time_calls(
    function: Callable[[Any], Any],
    inputs: Sequence[Sequence[Any]],
    *,
    warmup: int = 2,
    repeats: int = 1,
    synchronise: Callable[[], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """Times calls on batches, in milliseconds per photo.

    Args:
        function: called with one batch at a time.
        inputs: batches, each a sequence of photos or an array with the photos along its first axis.
        warmup: calls before the first that counts, on the first batches: caches fill, kernels get chosen.
        repeats: rounds over all batches, 1 or more.
        synchronise: called before each reading of the clock (`synchroniser`); None where the function returns finished
            results.
        clock: seconds.

    Returns:
        (repeats * batches,) float64: time of the call over the photos of its batch, in the order of the calls.

    Raises:
        ValueError: When there is no batch, an empty one, or a count out of range.
    """
    sizes = [len(batch) for batch in inputs]
    if not sizes or min(sizes) == 0:
        raise ValueError("inputs must hold batches of at least one photo; there is none, or one is empty.")
    if warmup < 0 or repeats < 1:
        raise ValueError(f"warmup must be 0 or more and repeats 1 or more; got {warmup} and {repeats}.")
    wait = synchronise or (lambda: None)
    for batch in islice(cycle(inputs), warmup):
        function(batch)
    times = []
    for _ in range(repeats):
        for batch, size in zip(inputs, sizes, strict=True):
            wait()
            start = clock()
            function(batch)
            wait()
            times.append(1000 * (clock() - start) / size)
    return np.array(times)


def time_stages(
    stages: Mapping[str, Callable[[Any], Any]],
    photos: Sequence[Any],
    batch_sizes: Iterable[int] = (1, 16),
    *,
    warmup: int = 2,
    repeats: int = 1,
    synchronise: Callable[[], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Times every stage at every batch size on the same photos.

    Args:
        stages: name -> function of a batch (a slice of ``photos``).
        photos: a list, or an array with the photos along its first axis. Photos left over from the last whole batch
            are not timed: a smaller batch has another speed.
        batch_sizes: each at most the number of photos.
        warmup: see `time_calls`; likewise the rest.
        repeats: rounds.
        synchronise: before each reading of the clock.
        clock: seconds.

    Returns:
        `TIME_COLUMNS`, a row a stage and batch size: ``n_photos`` timed in a round, ``n_calls`` in all rounds, and
        mean, median and 95th percentile over the calls of the milliseconds per photo.

    Raises:
        ValueError: When a batch size is below 1 or above the number of photos.
    """
    rows = []
    for name, function in stages.items():
        for size in batch_sizes:
            if not 1 <= size <= len(photos):
                raise ValueError(f"batch_sizes must lie in 1..{len(photos)}, the number of photos; got {size}.")
            batches = [photos[start : start + size] for start in range(0, len(photos) - size + 1, size)]
            times = time_calls(function, batches, warmup=warmup, repeats=repeats, synchronise=synchronise, clock=clock)
            figures = times.mean(), np.median(times), np.quantile(times, 0.95)
            rows.append((name, size, size * len(batches), times.size, *map(float, figures)))
    return pd.DataFrame(rows, columns=list(TIME_COLUMNS))


def throughput_against_defects(
    stage_ms: tuple[float, float],
    pass_rate_normal: float,
    pass_rate_defect: float,
    shares: Iterable[float] = tuple(np.linspace(0, 1, 21)),
) -> pd.DataFrame:
    """Photos per second of a cascade of two stages against the share of defects in the stream, by formula.

    With d the share of defects, a share p = d * pass_rate_defect + (1 - d) * pass_rate_normal goes on to stage 2, and a
    photo takes stage_ms[0] + p * stage_ms[1] on average. It holds where a stage takes the same time for every photo it
    sees; in batches, where the batches of stage 2 are filled.

    Args:
        stage_ms: milliseconds per photo of stage 1 and of stage 2, above 0.
        pass_rate_normal: share of normal photos that stage 1 hands on, in [0, 1].
        pass_rate_defect: share of defect photos that it hands on.
        shares: of defects, in [0, 1].

    Returns:
        A row a share: ``defect_share``, ``passed`` (p), ``cascade_ms``, and photos per second: ``cascade``,
        ``stage_1`` and ``stage_2`` alone.

    Raises:
        ValueError: Naming the parameter at fault.
    """
    first, second = _stage_times(stage_ms)
    rates = np.array([_share(pass_rate_normal, "pass_rate_normal"), _share(pass_rate_defect, "pass_rate_defect")])
    defects = np.array([_share(share, "shares") for share in shares])
    passed = (1 - defects) * rates[0] + defects * rates[1]
    milliseconds = first + passed * second
    return pd.DataFrame(
        {
            "defect_share": defects,
            "passed": passed,
            "cascade_ms": milliseconds,
            "cascade": 1000 / milliseconds,
            "stage_1": 1000 / first,
            "stage_2": 1000 / second,
        }
    )


def break_even_share(stage_ms: tuple[float, float], pass_rate_normal: float, pass_rate_defect: float) -> float:
    """Share of defects in the stream up to which the cascade is faster than stage 2 alone.

    Args:
        stage_ms: see `throughput_against_defects`; likewise the rest.
        pass_rate_normal: share of normal photos that stage 1 hands on.
        pass_rate_defect: share of defect photos that it hands on, above that of normal ones.

    Returns:
        In [0, 1]; 0 where the cascade is never faster, 1 where it always is.

    Raises:
        ValueError: Naming the parameter at fault.
    """
    first, second = _stage_times(stage_ms)
    normal, defect = _share(pass_rate_normal, "pass_rate_normal"), _share(pass_rate_defect, "pass_rate_defect")
    if defect <= normal:
        raise ValueError(
            f"pass_rate_defect ({defect}) must be above pass_rate_normal ({normal}): stage 1 tells nothing."
        )
    return float(np.clip((1 - first / second - normal) / (defect - normal), 0, 1))


def _stage_times(stage_ms: tuple[float, float]) -> tuple[float, float]:
    if len(stage_ms) != 2 or not all(np.isfinite(value) and value > 0 for value in stage_ms):
        raise ValueError(f"stage_ms must be the milliseconds of two stages, above 0; got {stage_ms}.")
    return float(stage_ms[0]), float(stage_ms[1])


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}.")
    return float(value)
