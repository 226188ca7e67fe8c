"""How long a photo takes, by a clock that only work moves; and full precision, for as long as somebody needs it."""

import pytest
import torch

from helpers.compute import TIME_COLUMNS, full_precision, synchroniser, throughput_against_defects, time_stages


class Machine:
    """A clock that only moves when work is done; on a GPU work is queued and done while one waits for it."""

    def __init__(self, seconds, queued=False):
        self.now, self.seconds, self.queued, self.waiting, self.batches = 0.0, seconds, queued, 0.0, []

    def work(self, batch):
        self.batches.append(list(batch))
        self.waiting += self.seconds(len(self.batches))
        if not self.queued:
            self.wait()

    def wait(self):
        self.now, self.waiting = self.now + self.waiting, 0.0


def test_warm_up_is_not_counted_and_queued_work_is_waited_for():
    machine = Machine(lambda call: 1.0 if call <= 3 else 0.004, queued=True)
    options = {"warmup": 3, "repeats": 2, "clock": lambda: machine.now}
    (row,) = time_stages({"a": machine.work}, [1, 2], (1,), synchronise=machine.wait, **options).itertuples()
    assert (row.mean_ms, row.p95_ms, row.n_calls) == (pytest.approx(4), pytest.approx(4), 4)
    assert machine.batches == [[1], [2], [1], [1], [2], [1], [2]]


def test_table_of_stages():
    machine = Machine(lambda call: 0.001 * call)
    stages = {"gate": machine.work, "classifier": lambda batch: None}
    table = time_stages(stages, list(range(10)), (1, 4), warmup=0, clock=lambda: machine.now)
    assert tuple(table.columns) == TIME_COLUMNS
    assert table["stage"].tolist() == ["gate", "gate", "classifier", "classifier"]
    assert table["n_photos"].tolist() == [10, 8, 10, 8]  # the two left over of 10 are not timed
    assert table["n_calls"].tolist() == [10, 2, 10, 2]
    single = table.iloc[0]  # 1, 2, ..., 10 ms
    assert (single["mean_ms"], single["median_ms"], single["p95_ms"]) == pytest.approx((5.5, 5.5, 9.55))
    assert table["mean_ms"][1:].tolist() == [pytest.approx(11.5 / 4), 0, 0]  # 11 and 12 ms for four photos each
    assert machine.batches[-2:] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ValueError, match=r"1\.\.3"):
        time_stages({"a": len}, [1, 2, 3], [16])


def test_a_gpu_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    synchroniser("cuda:1")()
    assert synchroniser("cpu")() is None and waited == ["cuda:1"]


def test_throughput_by_hand():
    """10 ms and 40 ms; of normal photos 10 % go on, of defect photos 90 %."""
    table = throughput_against_defects((10, 40), 0.1, 0.9).set_index("defect_share").loc[[0, 0.5, 1]]
    assert table["passed"].tolist() == pytest.approx([0.1, 0.5, 0.9])
    assert table["cascade_ms"].tolist() == pytest.approx([14, 30, 46])
    assert table["cascade"].tolist() == pytest.approx([1000 / 14, 1000 / 30, 1000 / 46])
    assert (table["stage_1"] == 100).all() and (table["stage_2"] == 25).all()


def test_full_precision_ends_with_the_last_that_needs_it_even_by_an_error():
    assert torch.backends.cudnn.allow_tf32  # torch's default, which training keeps
    with pytest.raises(ZeroDivisionError), full_precision():
        assert not torch.backends.cudnn.allow_tf32
        raise ZeroDivisionError
    assert torch.backends.cudnn.allow_tf32
    first, second = full_precision(), full_precision()  # of two threads: the second ends after the first
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.cudnn.allow_tf32
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.allow_tf32
