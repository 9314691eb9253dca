"""`open-nsfw video` beside opennsfw2's `predict_video_frames`, and its peak memory.

python -m benchmarks.video [--minutes 10] [--group 250] [--memory] [--json video.json]

A clip of 1080p H.264 at 30 frames a second is made of photos that move, 20 seconds of
it by x264's usual settings, and joined from copies of its packets. Both score a frame a
second. With --memory it is the peak memory over 2 minutes and over 2 hours of a small
clip instead.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

OPEN_NSFW = Path(sys.executable).parent / "open-nsfw"
RATE = 30  # frames a second
SECONDS = 20  # of the clip that is encoded
LARGE, SMALL = (1920, 1080), (320, 240)


def encode_clip(path: Path, size: tuple[int, int], group: int) -> Path:
    """Encode a photo over which the view moves, and before which a part of it moves.

    Args:
        path: of the .mp4.
        size: width and height.
        group: the most frames from one key frame to the next.
    """
    av: Any = import_module("av")
    from PIL import Image
    from skimage import data

    width, height = size
    photo = Image.fromarray(data.astronaut()).resize((width * 4 // 3, height * 4 // 3))
    large = np.asarray(photo)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "g": str(group)}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(RATE * SECONDS):
            x = int(width / 6 * (1 + np.sin(number / 40)))
            y = int(height / 6 * (1 + np.sin(number / 77)))
            view = large[y : y + height, x : x + width].copy()
            side = height // 3
            left = number * 9 % (width - side)
            view[side : 2 * side, left : left + side] ^= 255
            frame = av.VideoFrame.from_ndarray(view, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def repeat_clip(path: Path, clip: Path, count: int) -> Path:
    """Join copies of a clip's packets: long clips without encoding."""
    av: Any = import_module("av")
    with av.open(str(clip)) as source, av.open(str(path), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        start = min(packet.pts for packet in packets)
        length = max(packet.pts + packet.duration for packet in packets) - start
        raw = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe) for p in packets]
        for turn in range(count):
            for data, pts, dts, duration, key in raw:
                packet = av.Packet(data)
                packet.pts, packet.dts = pts + turn * length, dts + turn * length
                packet.duration, packet.time_base = duration, stream.time_base
                packet.is_keyframe, packet.stream = key, copy
                container.mux(packet)
    return path


def ours(path: Path) -> int:
    """Score a frame a second; how many there were."""
    from open_nsfw_tf import classifier
    from open_nsfw_tf.video import score_video

    return sum(1 for _ in score_video(classifier.default_classifier(), path))


def theirs(path: Path, weights: Path) -> int:
    """The same by opennsfw2: every 30th frame, in its own batches."""
    import opennsfw2

    seconds, _ = opennsfw2.predict_video_frames(
        str(path),
        frame_interval=RATE,
        weights_path=str(weights),
        progress_bar=False,
    )
    return len(seconds) // RATE


def timed(function: Callable[[], int]) -> dict[str, float]:
    """Seconds, and scored frames a second, of one call."""
    start = time.perf_counter()
    frames = function()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "frames": frames, "a_second": frames / seconds}


def compare(folder: Path, minutes: float, group: int) -> dict[str, Any]:
    """Times of both on one clip; each has scored a short one before."""
    from open_nsfw_tf import load_weights, save_weights

    weights = folder / "opennsfw2.h5"
    save_weights(load_weights(), weights, format="opennsfw2")
    short = encode_clip(folder / "short.mp4", LARGE, group)
    count = max(1, round(minutes * 60 / SECONDS))
    clip = repeat_clip(folder / "clip.mp4", short, count)
    found: dict[str, Any] = {"minutes": count * SECONDS / 60, "group": group}
    print("| | seconds | frames a second |\n| --- | --- | --- |")
    for name, score in (
        ("open_nsfw_tf", ours),
        ("opennsfw2", lambda path: theirs(path, weights)),
    ):
        score(short)
        found[name] = timed(lambda score=score: score(clip))  # type: ignore[misc]
        row = found[name]
        print(f"| {name} | {row['seconds']:.1f} | {row['a_second']:.1f} |", flush=True)
    found["ratio"] = found["opennsfw2"]["seconds"] / found["open_nsfw_tf"]["seconds"]
    print(f"\n{found['ratio']:.1f} times as fast")
    return found


def peak(path: Path) -> float:
    """Peak memory in MB of `open-nsfw video`, the larger of it and its decoder."""
    process = subprocess.Popen([OPEN_NSFW, "video", path], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"open-nsfw video ended with {process.returncode}")
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def memory(folder: Path, group: int) -> dict[str, Any]:
    """Peak memory over 2 minutes and over 2 hours."""
    short = encode_clip(folder / "short.mp4", SMALL, group)
    found = {}
    print("| minutes | peak MB |\n| --- | --- |")
    for minutes in (2, 120):
        count = minutes * 60 // SECONDS
        clip = repeat_clip(folder / f"{minutes}.mp4", short, count)
        found[f"{minutes} minutes"] = peak(clip)
        print(f"| {minutes} | {found[f'{minutes} minutes']:.0f} |", flush=True)
    return found


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--group", type=int, default=250, help="frames at most")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", type=Path, help="file to write")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.memory:
            found = memory(Path(folder), asked.group)
        else:
            found = compare(Path(folder), asked.minutes, asked.group)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
