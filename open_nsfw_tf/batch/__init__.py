"""Any number of pictures to a table of scores, on one machine or on a Ray cluster."""

from open_nsfw_tf.batch.ray import Network, RayCluster, score_on_ray
from open_nsfw_tf.batch.scoring import BatchOptions, Summary, score_batch

__all__ = [
    "BatchOptions",
    "Network",
    "RayCluster",
    "Summary",
    "score_batch",
    "score_on_ray",
]
