"""The chosen frames of a video, by FFmpeg in PyAV, in the child process.

FFmpeg reads a list of container formats; it gets the open file, no name, and must not
open another one.

A container is read twice. The first time only the packets' times are collected, by
which frames are chosen. Then the packets that these frames need are decoded: none
behind the last chosen frame of a group that begins with a key frame, and of those
before no frame that no other one refers to. Where packets do not tell the times of
frames for certain, all are decoded.
"""

import pkgutil
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

from PIL import Image, ImageFile  # noqa: F401 - Pillow would import it too late

from open_nsfw_tf.errors import ImageError, PixelLimitError, one_line
from open_nsfw_tf.parallel import cores
from open_nsfw_tf.video.sampling import (
    TOO_MANY_PIXELS,
    Chosen,
    Limits,
    Pixels,
    Sampling,
    choose,
    duration_or_none,
    steady,
)

# FFmpeg's demuxers that read one file and nothing else. Its others include playlists
# (hls, dash, concat, imf), which name further files and addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "h264",
    "hevc",
    "m4v",
    "flv",
    "ogg",
    "asf",
    "ivf",
)
# Their clocks begin anywhere; those of the other formats begin with the presentation.
WITHOUT_ZERO = ("mpegts", "mpeg")
# A packet is a frame, and a key frame needs none before it; measured in the tests.
ONE_FRAME_A_PACKET = (
    "h264",
    "hevc",
    "mpeg4",
    "mpeg2video",
    "vp9",
    "av1",
    "libdav1d",
    "mjpeg",
    "prores",
    "ffv1",
    "png",
)
LEAVES_OUT = ("h264", "hevc", "mpeg4", "mpeg2video")  # what no frame refers to
UNUSED = ("av.__main__", "av.datasets")  # modules of PyAV
BUFFER = 1 << 18  # bytes that are read at once
TOLERANCE = Fraction(1, 2)  # seconds by which a stream may end early
MOST_THREADS = 8  # each holds frames; the network needs the other half of the cores

OnProgress = Callable[[Fraction], None]  # called with the seconds that are decoded
Turn = Image.Transpose
# By a, b, c, d of a display matrix, 1 being 65536: a point x, y of the stored picture
# is shown at a x + c y, b x + d y.
TURNS = {
    (0, 1, -1, 0): Turn.ROTATE_270,
    (-1, 0, 0, -1): Turn.ROTATE_180,
    (0, -1, 1, 0): Turn.ROTATE_90,
    (-1, 0, 0, 1): Turn.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Turn.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Turn.TRANSPOSE,
    (0, -1, -1, 0): Turn.TRANSVERSE,
}


@dataclass
class Plan:
    """What the packets of a stream tell, in the order of decoding.

    Attributes:
        pts: presentation times in units of the stream.
        keys: 1 for a packet that begins a group.
        certain: whether each of these packets is a frame at its time.
        end: the latest end of a packet, in units of the stream.
        corrupt: packets that are not whole.
        problem: why the file could not be read to its end.
    """

    pts: array = field(default_factory=lambda: array("q"))  # type: ignore[type-arg]
    keys: bytearray = field(default_factory=bytearray)
    certain: bool = True
    end: int | None = None
    corrupt: int = 0
    problem: str | None = None

    def times(self) -> list[int]:
        """The frames' presentation times, rising."""
        first = self.keys.find(1)
        if first < 0:
            return []
        # Frames that are shown before the first key frame refer to what is not there.
        return sorted(t for t in self.pts[first:] if t >= self.pts[first])

    def needs(self, wanted: Container[int]) -> bytearray:
        """What to do with each packet: 0 nothing, 1 decode if referred to, 2 decode.

        Args:
            wanted: the times of the frames that are wanted.
        """
        needs = bytearray(len(self.pts))
        starts = [i for i, key in enumerate(self.keys) if key] + [len(self.pts)]
        for group, (start, stop) in enumerate(pairwise(starts)):
            chosen = [i for i in range(start, stop) if self.pts[i] in wanted]
            if not chosen:
                continue
            for i in range(start, chosen[-1] + 1):
                needs[i] = 2 if self.pts[i] in wanted else max(needs[i], 1)
            # An open group: some of its frames refer to the group before.
            if group and any(self.pts[i] < self.pts[start] for i in chosen):
                for i in range(starts[group - 1], start):
                    needs[i] = max(needs[i], 1)
        return needs


class Video:
    """The chosen stream of a container by PyAV.

    Args:
        file: seekable, without a name.
        limits: of pixels, time and streams.
        sampling: which frames are wanted.

    Raises:
        ImageError: it is no video that can be read here.
    """

    def __init__(self, file: Any, limits: Limits, sampling: Sampling) -> None:
        self._file, self._limits, self._sampling = file, limits, sampling
        self._problems: Counter[str] = Counter()
        self._stopped: str | None = None
        self._pixels = 0
        self._on_progress: OnProgress
        self._open()
        codec = self._stream.codec_context
        self._check_size(codec.width, codec.height)
        self._plan = Plan()
        self._zero = self._start()
        self.info = {
            "format": self._container.format.name.split(",")[0],
            "codec": codec.name,
            "width": codec.width,
            "height": codec.height,
            "frames": self._stream.frames or None,
            "seconds": self._declared(),
        }
        self._end = self._heard = Fraction(0)  # of the pictures, and of the sound

    @staticmethod
    def prepare(head: bytes) -> None:
        """Import all of PyAV, while that is possible, and let it say nothing."""
        import av

        for module in pkgutil.walk_packages(av.__path__, "av."):
            if module.name not in UNUSED:
                pkgutil.resolve_name(module.name)  # imports it
        av.logging.set_level(None)

    def _open(self) -> None:
        import av

        self._file.seek(0)
        try:
            self._container = av.open(
                self._file,
                container_options={
                    "format_whitelist": ",".join(FORMATS),
                    "protocol_whitelist": "none",
                },
                io_open=_refuse,
                buffer_size=BUFFER,
                metadata_errors="replace",
            )
        except (av.FFmpegError, ValueError) as error:
            raise ImageError(
                f"not a video this library reads ({reason_of(error)})"
            ) from error
        count = len(self._container.streams)
        if count > self._limits.streams:
            raise ImageError(
                f"{count} streams are more than the limit of {self._limits.streams}"
            )
        self._stream = self._best()
        self._stream.codec_context.thread_type = "AUTO"
        self._stream.codec_context.thread_count = min(
            max(1, cores() // 2), MOST_THREADS
        )

    def _best(self) -> Any:
        """The stream that a player shows; cover pictures are none."""
        from av.stream import Discard

        for stream in self._container.streams:
            if stream.type != "video":
                stream.discard = Discard.all
        found = self._container.streams.best("video")
        if found is None or found.codec_context is None:
            raise ImageError("expected a video, got a file without a stream of one")
        return found

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.pixels:
            raise PixelLimitError(
                f"{width} x {height} pixels are more than the limit of "
                f"{self._limits.pixels:,}; raise max_pixels if you trust the video"
            )

    def _start(self) -> Fraction:
        """The time that counts as 0, in seconds."""
        if self._container.format.name not in WITHOUT_ZERO:
            return Fraction(0)
        starts = [
            stream.start_time * stream.time_base
            for stream in self._container.streams
            if stream.type in ("video", "audio") and stream.start_time is not None
        ]
        return min(starts, default=Fraction(0))

    def _declared(self) -> float | None:
        """The duration that the file claims, in seconds."""
        stream, whole = self._stream, self._container.duration
        if stream.duration is not None:
            return duration_or_none(stream.duration * stream.time_base)
        tag = self._tag()
        if tag is not None:
            return duration_or_none(tag)
        return None if whole is None else duration_or_none(whole / 1e6)

    def _tag(self) -> float | None:
        """The seconds of the stream's tag DURATION, which may be inf or nan."""
        text = self._stream.metadata.get("DURATION", "")
        try:
            hours, minutes, seconds = map(float, text.split(":"))
        except ValueError:
            return None
        return hours * 3600 + minutes * 60 + seconds

    # -- the first reading

    def _scan(self) -> None:
        import av

        plan, stream = self._plan, self._stream
        latest, discarded = None, False
        try:
            for packet in self._container.demux(*self._to_scan()):
                self._on_progress(Fraction(0))
                if packet.stream is not stream:
                    if packet.pts is not None:
                        heard = (packet.pts + (packet.duration or 0)) * packet.time_base
                        self._heard = max(self._heard, heard)
                    continue
                if packet.size == 0:
                    continue
                if packet.is_discard:  # an edit list cuts it off
                    discarded = True
                    continue
                if discarded and not packet.is_keyframe:
                    plan.certain = False  # it refers to packets that were cut off
                discarded = False
                plan.corrupt += packet.is_corrupt
                if packet.pts is None:
                    plan.certain = False
                    continue
                if packet.dts is not None:
                    if latest is not None and packet.dts <= latest:
                        plan.certain = False  # a clock that begins anew
                    latest = packet.dts
                self._check_length(packet.pts - (plan.pts or [packet.pts])[0])
                plan.pts.append(packet.pts)
                plan.keys.append(packet.is_keyframe)
                end = packet.pts + (packet.duration or 0)
                plan.end = end if plan.end is None else max(plan.end, end)
        except av.FFmpegError as error:
            plan.problem = f"cannot be read to its end ({reason_of(error)})"
        except ImageError as stop:
            self._stopped = str(stop)
        known = self._stream.codec_context.name in ONE_FRAME_A_PACKET
        if not known or len(set(plan.pts)) < len(plan.pts) or plan.keys.find(1) < 0:
            plan.certain = False

    def _to_scan(self) -> list[Any]:
        """The stream; where it does not tell its length, those with sound too.

        They may be what lasts as long as the whole.
        """
        from av.stream import Discard

        if self._stream.duration is not None or self._tag() is not None:
            return [self._stream]
        heard = self._container.streams.audio
        for stream in heard:
            stream.discard = Discard.default
        return [self._stream, *heard]

    def _check_length(self, length: int | Fraction) -> None:
        if length * self._stream.time_base > self._limits.seconds:
            raise ImageError(
                f"longer than the limit of {self._limits.seconds:g} seconds"
            )

    # -- the second reading

    def frames(self, on_progress: OnProgress) -> Iterator[Chosen[Pixels]]:
        """The chosen frames."""
        from av.video.reformatter import VideoReformatter

        self._on_progress = on_progress
        self._scan()
        self._open()
        base, plan = self._stream.time_base, self._plan
        reformatter = VideoReformatter()
        chosen = self._by_plan() if plan.certain else self._by_decoding()
        try:
            for number, seconds, frame in chosen:
                rgb = self._rgb(frame, reformatter)
                if rgb is not None:
                    self._end = max(self._end, seconds - self._zero)
                    yield number, seconds - self._zero, rgb
        except ImageError as stop:
            self._stopped = str(stop)
        except MemoryError:
            self._stopped = "decoding needs more memory than the limit"
        else:
            if plan.end is not None:
                self._end = max(self._end, plan.end * base - self._zero)

    def _step(self) -> Fraction:
        plan = self._plan
        if self._sampling.frames is not None and not plan.pts:
            raise ImageError(
                "its length is unknown: expected every:SECONDS or all, got "
                f"{self._sampling}"
            )
        span = max(plan.pts) - min(plan.pts) if plan.pts else 0
        return self._sampling.step(span * self._stream.time_base)

    def _by_plan(self) -> Iterator[tuple[int, Fraction, Any]]:
        """The frames that the times of the packets choose, decoding what they need."""
        base, times = self._stream.time_base, self._plan.times()
        found = choose(((t * base, t) for t in times), self._step())
        wanted = {t: number for number, _, t in found}
        for frame in self._decoded(self._plan.needs(wanted)):
            number = wanted.pop(frame.pts, None)
            if number is not None:
                yield number, frame.pts * base, frame
        if wanted:
            self._problems["chosen frames could not be decoded"] += len(wanted)

    def _by_decoding(self) -> Iterator[tuple[int, Fraction, Any]]:
        """The frames that their own times choose, decoding all."""
        yield from choose(steady(self._timed()), self._step())

    def _timed(self) -> Iterator[tuple[Fraction, Any]]:
        base, rate = self._stream.time_base, self._stream.average_rate
        at = Fraction(0)
        for frame in self._decoded(None):
            if frame.pts is not None:
                at = frame.pts * base
            elif rate:
                at += 1 / rate
            yield at, frame
            self._end = max(self._end, at - self._zero)
            self._check_length(self._end / base)

    def _decoded(self, needs: bytearray | None) -> Iterator[Any]:
        """Decoded frames in the order of presentation; of `Plan.needs`, or all."""
        import av

        codec = self._stream.codec_context
        can_leave_out = codec.name in LEAVES_OUT
        index, gap = -1, False
        try:
            for packet in self._container.demux(self._stream):
                if needs is not None and packet.size and not packet.is_discard:
                    index += 1
                    need = needs[index] if index < len(needs) else 0
                    if not need:
                        gap = True
                        continue
                    if gap:
                        yield from self._decode(None)
                        codec.flush_buffers()
                        gap = False
                    if can_leave_out:
                        codec.skip_frame = "DEFAULT" if need == 2 else "NONREF"
                yield from self._decode(packet if packet.size else None)
        except MemoryError:  # one of FFmpeg's errors too
            raise
        except av.FFmpegError:
            yield from self._decode(None)  # what the scan has named

    def _decode(self, packet: Any) -> Iterator[Any]:
        import av

        try:
            frames = self._stream.decode(packet)
        except av.EOFError:
            return
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, MemoryError):
                raise
            self._problems["packets could not be decoded"] += 1
            return
        for frame in frames:
            self._pixels += frame.width * frame.height
            if self._pixels > self._limits.all_pixels:
                raise ImageError(TOO_MANY_PIXELS)
            self._problems["frames are damaged"] += frame.is_corrupt
            if frame.pts is not None:
                self._on_progress(frame.pts * self._stream.time_base - self._zero)
            yield frame

    def _rgb(self, frame: Any, reformatter: Any) -> Pixels | None:
        """A frame as FFmpeg makes a picture of it, turned as it is shown."""
        self._check_size(frame.width, frame.height)
        try:
            rgb = reformatter.reformat(frame, format="rgb24", threads=1)
        except (ValueError, OSError, RuntimeError):
            self._problems["frames have colours that cannot be converted"] += 1
            return None
        plane, size, turn = rgb.planes[0], (rgb.width, rgb.height), _turn(frame)
        if turn is None and plane.line_size == 3 * rgb.width:
            return size, memoryview(plane)
        image = Image.frombuffer("RGB", size, plane, "raw", "RGB", plane.line_size, 1)
        image = image if turn is None else image.transpose(turn)
        return image.size, image.tobytes()

    def end(self) -> dict[str, Any]:
        """What came of it."""
        plan, reasons = self._plan, []
        if self._stopped:
            reasons.append(self._stopped)
        elif plan.problem:
            reasons.append(plan.problem)
        if plan.corrupt:
            self._problems["packets are cut"] += plan.corrupt
        reasons += [
            f"{count} {what}" for what, count in self._problems.items() if count
        ]
        declared = self.info["seconds"]
        if not self._stopped and declared is not None and self._is_short(declared):
            reasons.append(
                f"ends after {float(self._end):.1f} of {declared:.1f} seconds"
            )
        return {"seconds": float(self._end), "reason": "; ".join(reasons) or None}

    def _is_short(self, declared: float) -> bool:
        times = self._plan.times()
        base = self._stream.time_base
        longest = max((b - a for a, b in pairwise(times)), default=0)
        read = self._end
        if times and self._container.format.name != FORMATS[1]:  # it counts from zero
            read -= times[0] * base - self._zero
        read = max(read, self._heard - self._zero)
        return bool(Fraction(declared) - read > max(TOLERANCE, 2 * longest * base))


def reason_of(error: Exception) -> str:
    """Why something cannot be decoded, in one line."""
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    return getattr(error, "strerror", None) or one_line(error)


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError("the file names another one, which is not opened")


def _turn(frame: Any) -> Turn | None:
    """How a frame is turned or mirrored for showing; None: as it is stored."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            numbers = struct.unpack("=9i", bytes(data)[:36])
            a, b, c, d = (round(numbers[i] / 65536) for i in (0, 1, 3, 4))
            return TURNS.get((a, b, c, d))
    return None
