"""Frames of videos and animations, scored by time, and a verdict over them.

`score_video` chooses frames by their presentation times, scores them by the exact
loader, and keeps to limits of memory and time; a child process decodes. Needs the extra
`video`: its wheels of PyAV hold FFmpeg with codecs under the GPL.
"""

from open_nsfw_tf.video.sampling import Limits, Sampling
from open_nsfw_tf.video.scoring import (
    ClassFrameScore,
    FrameScore,
    VideoScores,
    score_video,
)
from open_nsfw_tf.video.verdict import Rule, Segment, Verdict, VerdictOptions, clock

__all__ = [
    "ClassFrameScore",
    "FrameScore",
    "Limits",
    "Rule",
    "Sampling",
    "Segment",
    "Verdict",
    "VerdictOptions",
    "VideoScores",
    "clock",
    "score_video",
]
