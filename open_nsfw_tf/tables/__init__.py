"""Tables of scores, one row a picture, as CSV, JSON lines or Parquet.

They are read whole, appended to so that no kill loses a row (`append`, and for many
machines `parquet_folder`), ranked and compared (`compare`). `rows` says what they hold.
"""

from open_nsfw_tf.tables.decision import positive_columns, positive_score
from open_nsfw_tf.tables.read import (
    SUFFIXES,
    Table,
    in_range,
    rank,
    read_table,
    suffix_of,
)
from open_nsfw_tf.tables.rows import (
    FRAME,
    LONGEST_FIELD,
    LONGEST_ROW,
    NOT_SCORES,
    STAMP,
    DigestMap,
    digest,
    pack_stamp,
    read_stamp,
)

__all__ = [
    "FRAME",
    "LONGEST_FIELD",
    "LONGEST_ROW",
    "NOT_SCORES",
    "STAMP",
    "SUFFIXES",
    "DigestMap",
    "Table",
    "digest",
    "in_range",
    "pack_stamp",
    "positive_columns",
    "positive_score",
    "rank",
    "read_stamp",
    "read_table",
    "suffix_of",
]
