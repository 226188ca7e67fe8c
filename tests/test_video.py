"""Video: what is in frame i is known, so what is read, judged, counted and written can be checked frame by frame.

The run is one of ``cascade_runs``: its map is the red channel, over 255, at every eighth of height and width. Photos
have a red of 51 (score 0.2, good); a square of 255 (score 1) is a defect. Thresholds: image 0.5, pixel 0.6.
"""

import gc
import json
import os
import re
import signal
import sys
import wave
import weakref
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from cascade_runs import CLASSES, KnownBackend, write_run
from conftest import dead_process
from PIL import Image

from helpers import read_dataset
from helpers.inference import predictor as predictor_module
from helpers.inference.clips import ClipWriter, Frame, FrameSource, open_source, photo_source, write_clip
from helpers.inference.exported import Calibration
from helpers.inference.frame_drawing import labelled_frame
from helpers.inference.frames import NO_ROW, judge_video, map_scale, video_threshold
from helpers.inference.predictor import Predictor
from helpers.paths import partial_path, stopped_alike
from helpers.thresholds import Threshold
from helpers.video import main

HEIGHT, WIDTH = 64, 96
FPS = 25


@pytest.fixture(autouse=True)
def known_networks(monkeypatch):
    monkeypatch.setitem(predictor_module.BACKENDS, "torch", KnownBackend)
    monkeypatch.setattr(KnownBackend, "seconds_a_photo", 0.0)


@pytest.fixture(params=[4, 2], ids=["in a thread", "at once"])
def beside(request, monkeypatch) -> bool:
    """Frames are drawn before the next ones are judged, or while they are."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param > 2


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "artifacts/drawn/quick/first")


def is_defect(number: int) -> bool:
    return number % 5 in (3, 4)


def photo(number: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Grey 51; a defect frame has a square of 255, 16 x 12, that moves with the number."""
    picture, left = np.full((*size, 3), 51, np.uint8), 12 * (number % 7)
    picture[16:32, left : left + 12 * is_defect(number)] = 255
    return picture


def write_photos(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(photo(number)).save(folder / f"{number}.png")  # 10.png sorts before 2.png as text
    return folder


def write_video(path: Path, count: int = 30, b_frames: int = 0, rate: int = FPS, **format_options: str) -> Path:
    """Written by PyAV alone, with a key frame every 12."""
    with av.open(str(path), "w", options=format_options) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.options = {"g": "12", "keyint_min": "12", "sc_threshold": "0", "bf": str(b_frames), "crf": "10"}
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(photo(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def moving(count: int, live: bool = False) -> FrameSource:
    return frame_source([photo(number) for number in range(count)], live)


def frame_source(photos: list[np.ndarray], live: bool = False) -> FrameSource:
    frames = [Frame(number, number / FPS, picture, f"drawn#{number}") for number, picture in enumerate(photos)]
    return FrameSource("drawn", FPS, None if live else len(frames), live, lambda: iter(frames))


def test_a_file_gives_each_frame_once_in_order_and_time(tmp_path):
    source = open_source(write_video(tmp_path / "clip.mp4"))
    frames = list(source)
    assert (source.fps, source.n_frames, source.live) == (FPS, 30, False)
    assert [frame.number for frame in frames] == list(range(30))
    assert [frame.seconds for frame in frames] == pytest.approx([number / FPS for number in range(30)])
    for frame in frames:
        assert frame.photo.shape == (HEIGHT, WIDTH, 3) and not frame.error
        assert np.abs(frame.photo.astype(int) - photo(frame.number)).mean() < 4, frame.number
    assert len(list(source)) == 30, "each iteration begins anew"


def test_images_come_in_natural_order_from_folder_pattern_and_printf(tmp_path):
    folder = write_photos(tmp_path / "[Line 1] 50%d", 12)
    for what in (folder, folder / "*.png", folder / "%d.png"):
        source = open_source(what, fps=4)
        frames = list(source)
        assert [Path(frame.source).stem for frame in frames] == [str(number) for number in range(12)], what
        assert all(np.array_equal(frame.photo, photo(frame.number)) for frame in frames)
        assert frames[-1].seconds == pytest.approx(11 / 4) and source.n_frames == 12
    assert len(list(open_source(folder / "3.png"))) == 1 and len(list(open_source(folder / "[35].png"))) == 2
    (folder / "7.png").rename(folder / "[a] 0007.png")
    assert len(list(open_source(folder / "[a] %04d.png"))) == 1


def test_a_part_keeps_numbers_and_times():
    part = moving(30).part(every=3, max_frames=4)
    assert [frame.number for frame in part] == [0, 3, 6, 9]
    assert [frame.seconds for frame in part] == pytest.approx([0, 0.12, 0.24, 0.36])
    assert part.fps == pytest.approx(FPS / 3)
    assert [moving(31).part(every=every).n_frames for every in (1, 2, 30)] == [31, 16, 2]
    assert part.n_frames == 4 and moving(3, live=True).part(max_frames=4).n_frames is None
    for wrong in ("every", "max_frames"):
        with pytest.raises(ValueError, match=wrong):
            moving(3).part(**{wrong: 0})


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0, HEIGHT, 0), -1), ((0, -1, 1, 0, 0, WIDTH), 1), ((-1, 0, 0, -1, WIDTH, HEIGHT), 2)],
)
def test_a_phone_held_upright_gives_upright_frames(tmp_path, matrix, turns):
    """QuickTime's matrix (a b, c d, x y) takes a point to (a x + c y + tx, b x + d y + ty): turns by hand."""
    content = bytearray(write_video(tmp_path / "clip.mp4", 2).read_bytes())
    upright = next(iter(open_source(tmp_path / "clip.mp4"))).photo
    a, b, c, d, x, y = (value << 16 for value in matrix)
    start = content.index(b"tkhd") + 44
    assert content[start : start + 4] == b"\0\1\0\0", "the identity was there"
    content[start : start + 36] = np.array([a, b, 0, c, d, 0, x, y, 1 << 30], dtype=">i4").tobytes()
    (tmp_path / "turned.mp4").write_bytes(content)
    assert np.array_equal(next(iter(open_source(tmp_path / "turned.mp4"))).photo, np.rot90(upright, turns))


def test_sources_that_hold_no_frame_say_so(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    for what in ("nowhere.mp4", "empty", "*.png", "text.mp4", "sound.wav"):
        with pytest.raises((FileNotFoundError, ValueError), match=re.escape(what)):
            open_source(tmp_path / what)
    with pytest.raises(ValueError, match="fps=0"):
        open_source(write_photos(tmp_path / "frames", 1), fps=0)
    with pytest.raises(ValueError, match="video99"):
        list(open_source("/dev/video99"))


@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_damaged_frame_is_reported_and_those_that_follow_it_are_doubtful(tmp_path, b_frames):
    video = write_video(tmp_path / "clip.mp4", b_frames=b_frames)
    content, noise = bytearray(video.read_bytes()), np.random.default_rng(0)
    with av.open(str(video)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in places[14:16]:
        # The length that stands before the payload stays: only the picture is lost, not the frames after it.
        content[position + 4 : position + size] = noise.integers(0, 256, size - 4, dtype=np.uint8).tobytes()
    video.write_bytes(content)
    frames = list(open_source(video))
    assert [frame.number for frame in frames] == list(range(30))
    times = [frame.seconds for frame in frames]
    assert times == sorted(times) and times[-1] == pytest.approx(29 / FPS)
    broken = [frame.number for frame in frames if frame.photo is None]
    doubtful = [frame.number for frame in frames if frame.photo is not None and frame.error]
    if not b_frames:
        assert (broken, doubtful) == ([14, 15], list(range(16, 24))), "until the key frame at 24"
    assert len(broken) >= 2 and doubtful and not any(frame.error for frame in frames[24:])


def test_cameras_and_streams_are_opened_as_such_and_timed_by_the_clock(tmp_path, monkeypatch):
    video, asked = str(write_video(tmp_path / "clip.mp4", 5)), []
    open_camera, open_stream = cv2.VideoCapture, av.open
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: asked.append(name) or open_camera(video))
    monkeypatch.setattr(av, "open", lambda name: asked.append(name) or open_stream(video))
    for what, name in (("0", 0), ("rtsp://line/1", "rtsp://line/1")):
        asked.clear()
        source = open_source(what)
        frames = list(source)
        assert source.live and {*asked} == {name}
        assert all(np.abs(frame.photo.astype(int) - photo(n)).mean() < 4 for n, frame in enumerate(frames[:5]))
        assert all(later.seconds >= frame.seconds for frame, later in zip(frames, frames[1:], strict=False))
        if name == 0:  # one that gives nothing any more is given up
            assert 5 < len(frames) < 50 and all(frame.photo is None and frame.error for frame in frames[5:])


def test_a_live_source_keeps_up_and_counts_what_it_drops(run, tmp_path, monkeypatch):
    monkeypatch.setattr(KnownBackend, "seconds_a_photo", 0.05)
    whole = judge_video(moving(8), tmp_path / "file.mp4", Predictor(run))
    assert (whole.summary["n_judged"], whole.summary["n_dropped"]) == (8, 0), "a file is judged whole"
    result = judge_video(moving(20, live=True), tmp_path / "live.mp4", Predictor(run))  # all at once, as after a pause
    frames = result.frames
    assert frames["frame"].tolist() == list(range(20)), "each frame has one row, in order"
    assert result.summary["n_dropped"] > 10 and result.summary["n_judged"] + result.summary["n_dropped"] == 20
    dropped, judged = frames[frames["status"] == "dropped"], frames[frames["status"] == "judged"]
    assert (dropped["verdict"] == "").all() and dropped["score"].isna().all()
    assert judged.index[-1] == 19, "the newest is never the one that goes"
    with av.open(str(result.video)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    since = judged["time_s"] - judged["time_s"].iloc[0]
    assert times == pytest.approx(since.tolist(), abs=0.002), "the others keep their times"


def test_written_is_h264_that_every_player_shows_with_even_sides_and_true_colours(tmp_path):
    colours = [(255, 64, 64), (64, 220, 96), (30, 90, 200), (128, 128, 128), (255, 255, 255), (0, 0, 0)]
    with ClipWriter(tmp_path / "out.mp4", 12.5) as clip:
        for number, colour in enumerate(colours):
            clip.write(np.full((63, 95, 3), colour, np.uint8), number / 12.5)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.format.name, context.height, context.width) == ("h264", "yuv420p", 64, 96)
        assert stream.average_rate == Fraction(25, 2) and stream.frames == 6
    for found, colour in zip(decode(tmp_path / "out.mp4"), colours, strict=True):
        assert np.abs(found[32, 48].astype(int) - colour).max() <= 3


def test_an_error_leaves_nothing_and_an_interruption_what_is_done(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:  # what a killed process has left goes
        patch.setattr(os, "getpid", dead_process)
        partial_path(tmp_path / "out.mp4").write_text("half")
    with pytest.raises(RuntimeError), ClipWriter(tmp_path / "a.mp4", 10) as clip:
        clip.write(photo(0), 0)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), ClipWriter(tmp_path / "b.mp4", 10) as clip:
        for number in range(3):
            clip.write(photo(number), number / 10)
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["b.mp4"] and len(decode(tmp_path / "b.mp4")) == 3
    with pytest.raises(ValueError, match=r"out\.avi"):
        ClipWriter(tmp_path / "out.avi", 10)


def test_a_clip_of_photos_with_their_labels(photos, tmp_path):
    table = read_dataset(photos).query("defect_type == 'square'")
    source = photo_source(table["image_path"], table["defect_type"], 5, "squares")
    assert [(frame.source, frame.label) for frame in source] == [(path, "square") for path in table["image_path"]]
    assert write_clip(source, tmp_path / "plain.mp4") == (4, [])
    assert write_clip(source, tmp_path / "labelled.mp4", labelled_frame) == (4, [])
    plain, labelled = decode(tmp_path / "plain.mp4")[0], decode(tmp_path / "labelled.mp4")[0]
    assert plain.shape == (72, 96, 3) and labelled.shape[0] > 5 * 72, "enlarged, with a band below"
    band = labelled[5 * 72 :]
    assert band.max() > 180 and np.median(band) < 60, "light letters on dark"


def test_each_frame_gets_its_verdict_its_defects_and_its_row(run, beside, tmp_path):
    source = open_source(write_video(tmp_path / "clip.mp4"))
    result = judge_video(source, tmp_path / "out.mp4", Predictor(run), pixel_size=0.5, layout="side")
    frames, wrong = result.frames, np.array([is_defect(number) for number in range(30)])
    assert list(frames.columns) == list(NO_ROW)
    assert frames["verdict"].tolist() == ["DEFECT" if one else "OK" for one in wrong]
    assert frames["n_defects"].tolist() == wrong.tolist()
    assert frames["score"].to_numpy() == pytest.approx(np.where(wrong, 1, 0.2), abs=0.03)
    # 255 at 2 x 1 cells of 8 x 12 px in a field of 51: where the linear ramp passes 0.6, half-way, the outline lies.
    assert frames.loc[wrong, "largest_length"].between(0.5 * 14, 0.5 * 26).all() and set(frames["unit"]) == {"mm"}
    assert (frames["latency_ms"] > 0).all() and frames["time_s"].tolist() == pytest.approx(np.arange(30) / FPS)
    counts = {"n_frames": 30, "n_expected": 30, "n_judged": 30, "n_flagged": 12, "n_broken": 0, "interrupted": False}
    assert counts.items() <= result.summary.items()
    assert len(decode(result.video)) == 30
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored["results"]["n_flagged"] == 12 and stored["settings"]["threshold"]["value"] == 0.5
    assert stored["settings"]["map_scale"] == pytest.approx([0, 0.6, 1.2])
    assert {file.name for file in tmp_path.glob("*.*")} == {"clip.mp4", "out.csv", "out.json", "out.mp4"}


def test_what_is_drawn_lies_where_the_defect_is(run, tmp_path):
    pictures: list[np.ndarray] = []
    judge_video(moving(10), tmp_path / "out.mp4", Predictor(run), layout="side", on_picture=pictures.append)
    factor = 6  # 64 px high, enlarged to at least 360
    for number, picture in enumerate(pictures):
        shown = picture[: factor * HEIGHT, : factor * WIDTH]
        drawn_map = picture[: factor * HEIGHT, factor * WIDTH : 2 * factor * WIDTH].astype(float).mean(2)
        assert np.abs(shown[::factor, ::factor][8:56, 8:88].astype(float) - photo(number)[8:56, 8:88]).mean() < 30
        if is_defect(number):
            rows, columns = np.nonzero(drawn_map >= 0.9 * drawn_map.max())
            assert abs(columns.mean() / factor - (12 * (number % 7) + 6)) < 8
            assert abs(rows.mean() / factor - 24) < 6
        else:
            assert np.ptp(drawn_map) < 1, "one value, one colour"


@pytest.mark.parametrize("layout", ["overlay", "side", "sizes"])
def test_broken_images_are_counted_shown_darkened_from_the_first_whole_one_on_and_not_fatal(run, tmp_path, layout):
    folder = write_photos(tmp_path / "frames", 6)
    (folder / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0\.png"):  # where no frame can be judged, nothing is left
        judge_video(open_source(folder / "0.png"), tmp_path / "new/out.mp4", Predictor(run))
    assert not list(tmp_path.glob("new/*"))
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:90])
    pictures: list[np.ndarray] = []
    options = {"layout": layout, "on_picture": pictures.append}
    result = judge_video(open_source(folder), tmp_path / "out.mp4", Predictor(run), **options)
    rows = result.frames
    assert rows["status"].tolist() == ["broken", "judged", "broken", "judged", "judged", "judged"]
    assert (result.summary["n_judged"], result.summary["n_broken"]) == (4, 2) and len(decode(result.video)) == 5
    assert rows["verdict"][2] == "" and "2.png" in rows["error"][2]
    assert pictures[1][:200, :200].mean() < 0.5 * pictures[0][:200, :200].mean(), "the last whole photo, darkened"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux file names are bytes")
def test_a_name_that_steers_the_terminal_is_made_harmless(run, tmp_path, capsys):
    folder = write_photos(tmp_path / "frames", 3)
    (folder / os.fsdecode(b"1\n\xe9\x1b[31m.png")).write_bytes(b"no picture")
    assert main([str(folder), str(tmp_path / "out.mp4"), "--run", str(run)]) == 1
    assert main([str(folder), str(tmp_path / "raw.mp4")]) == 1
    assert "\x1b" not in capsys.readouterr().err + (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize("layout", ["overlay", "side", "sizes"])
def test_sizes_change_in_a_sequence_and_the_video_keeps_its_own(run, tmp_path, layout):
    source = frame_source([photo(1, (371, 365)), photo(3, (371, 365)), photo(4, (90, 50))])
    pictures = decode(judge_video(source, tmp_path / "out.mp4", Predictor(run), layout=layout).video)
    assert len(pictures) == 3 and len({picture.shape for picture in pictures}) == 1
    assert all(side % 2 == 0 for side in pictures[0].shape[:2])


def test_only_a_few_frames_are_held_at_a_time(run, beside, tmp_path):
    alive: list[weakref.ref] = []
    most = 0

    def read():
        nonlocal most
        for number in range(60):
            picture = photo(number)
            alive.append(weakref.ref(picture))
            most = max(most, sum(one() is not None for one in alive))
            yield Frame(number, number / FPS, picture, f"#{number}")

    gc.collect()
    judge_video(FrameSource("drawn", FPS, 60, False, read), tmp_path / "out.mp4", Predictor(run))
    assert len(alive) == 60 and most <= 7


def test_ctrl_c_keeps_what_is_done_playable(run, beside, tmp_path, monkeypatch):
    known, calls = KnownBackend.__call__, []

    def interrupted(self, photos):
        calls.append(len(photos))
        if len(calls) in (2, 8):  # the first call of each video warms up
            raise KeyboardInterrupt
        return known(self, photos)

    monkeypatch.setattr(KnownBackend, "__call__", interrupted)
    command = [str(write_video(tmp_path / "clip.mp4")), str(tmp_path / "out.mp4"), "--run", str(run)]
    assert main(command) == 130 and not list(tmp_path.glob("out*")), "before the first frame"
    assert main(command) == 130
    assert len(decode(tmp_path / "out.mp4")) == 4 == len(pd.read_csv(tmp_path / "out.csv"))
    assert json.loads((tmp_path / "out.json").read_text())["results"]["interrupted"] is True
    assert not list(tmp_path.glob(".*"))


def test_errors_while_drawing_and_reading_reach_the_caller_and_leave_nothing(run, beside, tmp_path, monkeypatch):
    def read():
        yield Frame(0, 0.0, photo(0), "drawn#0")
        raise ConnectionError("the cable is out")

    live = FrameSource("drawn", 100, None, True, read)
    with pytest.raises(ConnectionError):
        judge_video(live, tmp_path / "out" / "out.mp4", Predictor(run))
    monkeypatch.setattr("helpers.inference.frames.draw_frame", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge_video(moving(30), tmp_path / "out" / "out.mp4", Predictor(run))
    assert not list(tmp_path.glob("out/*"))


def test_a_classifier_says_the_class_and_has_no_sizes(tmp_path):
    folder = write_run(tmp_path / "artifacts/drawn/quick/classifier", classes=CLASSES, normal="good")
    colours = ((200, 20, 30), (20, 200, 30))  # P = mean of R, G, B over their sum
    source = frame_source([np.full((40, 40, 3), colour, np.uint8) for colour in colours])
    result = judge_video(source, tmp_path / "out.mp4", Predictor(folder), layout="side")
    assert result.frames["class"].tolist() == ["good", "hole"]
    assert result.frames["verdict"].tolist() == ["OK", "DEFECT"] and result.frames["n_defects"].isna().all()
    with pytest.raises(ValueError, match="classifier"):
        judge_video(source, tmp_path / "out.mp4", Predictor(folder), layout="sizes")


def test_normalised_scores_are_anomalibs(run, tmp_path):
    from anomalib.post_processing import PostProcessor

    reds = [0, 20, 60, 110, 128, 140, 255]
    source = frame_source([np.full((40, 40, 3), red, np.uint8) for red in reds])
    found = judge_video(source, tmp_path / "out.mp4", Predictor(run)).frames["normalised_score"]
    low, high, threshold = (torch.tensor(value) for value in (0.1, 0.3, 0.5))  # val's scores are 0.1 to 0.3
    theirs = PostProcessor._normalize(torch.tensor(reds) / 255, low, high, threshold)  # noqa: SLF001  (as documented)
    assert found.tolist() == pytest.approx(theirs.tolist(), abs=1e-4)


def test_a_backend_with_thresholds_of_its_own_shows_no_defect_below_a_half(tmp_path, monkeypatch):
    """As a file in 8 bits has: its threshold 0.6 lies below the run's 2, decides, and is 0.5 on the scale."""
    run = write_run(tmp_path / "artifacts/drawn/quick/first", thresholds={"image": 2.0})
    own = {"image": Threshold(0.6, "in 8 bits"), "pixel": Threshold(0.7, "in 8 bits", kind="pixel")}
    calibration = Calibration(own, np.float32([0.1, 0.15, 0.2]))
    monkeypatch.setattr(KnownBackend, "calibration", calibration, raising=False)
    result = judge_video(moving(12), tmp_path / "out.mp4", Predictor(run))
    defect = result.frames["verdict"] == "DEFECT"
    assert defect.any() and (~defect).any()
    assert ((result.frames["normalised_score"] >= 0.5) == defect).all()
    assert result.threshold.value == 0.6 and "calibrated" not in result.other_thresholds


def test_thresholds_by_name_number_and_normalised(run, tmp_path):
    judge = Predictor(run)
    assert video_threshold(judge, "image").value == 0.5 and video_threshold(judge, "start").value == 0.25
    assert video_threshold(judge, "0.7").value == 0.7 and video_threshold(judge, 0.3).value == 0.3
    # val's scores are 0.1 to 0.3, the image threshold is 0.5: 0.5 + (0.8 - 0.5) * 0.2
    assert video_threshold(judge, "normalised").value == pytest.approx(0.56)
    with pytest.raises(ValueError, match="it has image, pixel, start"):
        video_threshold(judge, "imagee")
    np.save(run / "maps_val.npy", np.linspace(0.1, 0.3, 3 * 64).reshape(3, 8, 8).astype(np.float16))
    assert video_threshold(judge, "normalised", "pixel").value == pytest.approx(0.6 + 0.3 * 0.2, abs=1e-3)
    result = judge_video(moving(5), tmp_path / "out.mp4", judge, threshold="normalised")
    assert result.threshold.value == pytest.approx(0.56) and result.other_thresholds == {"calibrated": 0.5}


def test_the_scale_of_maps_comes_from_good_photos_of_val_and_is_one_for_all(run):
    np.save(run / "maps_val.npy", np.linspace(0.1, 0.3, 3 * 64).reshape(3, 8, 8).astype(np.float16))
    scale = map_scale(Predictor(run), 0.6)
    assert scale.low == pytest.approx(0.102, abs=1e-3) and scale.top == pytest.approx(1.2 - scale.low)
    values = [scale.low - 1, scale.low, 0.6, scale.top, scale.top + 1]
    ends = scale.colours(np.array([values], np.float32))[0].astype(int)
    assert np.array_equal(ends[0], ends[1]) and np.array_equal(ends[3], ends[4]) and ends[3].sum() > ends[2].sum() > 50
    weak, strong = (np.full((8, 8), value, np.float32) for value in (0.3, 0.3))
    strong[0, 0] = 50
    assert np.array_equal(scale.colours(weak)[4, 4], scale.colours(strong)[4, 4]), "not stretched to a frame's own"
    assert map_scale(Predictor(run), 0.05).low < 0.05, "a threshold below good pixels still has a scale"


def test_the_command_judges_a_video(run, tmp_path, capsys):
    options = ["--run", str(run), "--layout", "sizes", "--threshold", "0.6", "--pixel-size", "0.1", "--every", "3"]
    assert main([str(write_video(tmp_path / "clip.mp4", 15)), str(tmp_path / "out/a.mp4"), *options]) == 0
    # frames 0, 3, 6, 9, 12: of these 3 and 9 are defects (number % 5 in 3, 4)
    assert "2 of 5 frames called DEFECT" in capsys.readouterr().out
    frames = pd.read_csv(tmp_path / "out/a.csv")
    assert frames["frame"].tolist() == [0, 3, 6, 9, 12] and set(frames["unit"]) == {"mm"}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_the_command_makes_a_dataset_and_says_that_a_clip_breaks_off(tmp_path, capsys, suffix):
    whole = write_video(tmp_path / f"whole{suffix}", 60, rate=10, movflags="faststart")
    assert main([str(whole), str(tmp_path / "some"), "--extract", "--every", "3", "--max-frames", "5"]) == 0
    assert main([str(whole), str(tmp_path / "copy.mp4")]) == 0
    assert len(decode(tmp_path / "copy.mp4")) == 60 and capsys.readouterr().err == ""
    names = sorted(file.name for file in (tmp_path / "some/train/good").iterdir())
    assert names == ["000000.png", "000003.png", "000006.png", "000009.png", "000012.png"]
    table = read_dataset(tmp_path / "some")
    assert len(table) == 5 and set(table["split"]) == {"train"} and set(table["label_index"]) == {0}
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: len(content) * 2 // 3])
    frames = list(open_source(cut))
    lost = int(re.search(r"(\d+) frames", frames[-1].error)[1])
    left_out = sum(bool(frame.error) for frame in frames) - 1
    assert main([str(cut), str(tmp_path / "new"), "--extract"]) == 1
    assert str(lost) in capsys.readouterr().err
    assert len(list((tmp_path / "new").rglob("*.png"))) + left_out + lost == 60
    assert main([str(cut), str(tmp_path / "clip.mp4")]) == 1


def test_frames_of_twelve_bits_are_read_as_the_run_has_learned_or_alike(run, tmp_path):
    (tmp_path / "frames").mkdir()
    for number, level in enumerate((300, 4095)):
        Image.fromarray(np.full((HEIGHT, WIDTH), level, np.uint16)).save(tmp_path / f"frames/{number}.png")
    assert [frame.photo.max() for frame in open_source(tmp_path / "frames")] == [300 >> 4, 255]
    scores = {}
    for bits in (16, 12):
        info = json.loads((run / "run.json").read_text())
        info["parameters"] |= {"bit_depth": bits}
        (run / "run.json").write_text(json.dumps(info))
        assert main([str(tmp_path / "frames"), str(tmp_path / "out.mp4"), "--run", str(run)]) == 0
        scores[bits] = pd.read_csv(tmp_path / "out.csv")["score"].tolist()
    assert scores == {16: pytest.approx([1 / 255, 15 / 255]), 12: pytest.approx([18 / 255, 1])}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{folder}/nowhere.mp4 {out} --run {run}", "There is no"),
        ("{folder} {out} --run {folder}", "no finished run"),
        ("{folder} {out} --run {run} --threshold imagee", "it has image, pixel, start"),
        ("{folder} {out} --run {run} --pixel-size -1", "pixel_size"),
        ("{folder} {out} --run {run} --backend abacus", "backend='abacus'"),
        ("{folder} {out}.gif --run {run}", ".mp4"),
        ("{video} {video} --run {run}", "OUT is IN"),
    ],
)
def test_refusals_say_why(run, tmp_path, capsys, arguments, message):
    names = {"folder": write_photos(tmp_path / "frames", 2), "video": write_video(tmp_path / "clip.mp4", 2)}
    names |= {"run": run, "out": tmp_path / "new/out"}
    assert main([word.format(**names) for word in arguments.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("new/*"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_signals_end_a_video_alike_and_none_stops_what_finishes_it(run, tmp_path, monkeypatch):
    replace, signals = Path.replace, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    ours = {number: signal.signal(number, signal.SIG_DFL) for number in signals}  # a job in the background ignores some
    for number in signals:
        with pytest.raises(KeyboardInterrupt), stopped_alike():
            os.kill(os.getpid(), number)

    def interrupted(self, target):
        for number in signals:
            os.kill(os.getpid(), number)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with stopped_alike():
        assert main([str(write_video(tmp_path / "clip.mp4")), str(tmp_path / "out.mp4"), "--run", str(run)]) == 0
    for number, handler in ours.items():
        signal.signal(number, handler)
    assert len(decode(tmp_path / "out.mp4")) == len(pd.read_csv(tmp_path / "out.csv")) > 0
    assert (tmp_path / "out.json").is_file()
