"""Score pictures on a Ray cluster, and print the ones that score highest.

python examples/ray_cluster.py scores photos s3://bucket/more

scores becomes a folder of Parquet files; run the same line again to go on with it.
Where RAY_ADDRESS names a cluster, it is used; else a Ray is started on this machine.
"""

import os
import sys

from open_nsfw_tf.batch import RayCluster, score_on_ray
from open_nsfw_tf.tables import rank, read_table


def main() -> None:
    """Score what is named on the command line, and rank it."""
    output, *sources = sys.argv[1:]
    cluster = RayCluster(os.environ.get("RAY_ADDRESS", "local"))
    summary = score_on_ray(sources, output, cluster=cluster, mode="resume")
    print(f"{summary.rows} new rows, {summary.failed} without a score")
    for path, score in rank(read_table(output), top=5):
        print(f"{score:.4f} {path}")


if __name__ == "__main__":
    main()
