"""Tables as Parquet, by pyarrow.

Parquet's texts are UTF-8: a table with a path that is not has its paths as bytes.
"""

import os
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from open_nsfw_tf.messages import one_line, shown
from open_nsfw_tf.tables import CHUNK, NOT_SCORES, Chunk, score_columns


def import_pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    if find_spec("pyarrow") is None:
        raise ImportError(
            "tables as .parquet need pyarrow: pip install 'open_nsfw_tf[parquet]'"
        )
    return import_module("pyarrow"), import_module("pyarrow.parquet")


def chunks(path: Path) -> Iterator[Chunk]:
    """Read a table as columns, some rows at a time; the first chunk is always there.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no whole Parquet file, or its columns do not fit.
        ImportError: pyarrow is missing.
    """
    pyarrow, parquet = import_pyarrow()
    with path.open("rb") as file:
        try:
            table = parquet.ParquetFile(file)
            names = _columns(table.schema_arrow, pyarrow.types)
            yield {name: [] for name in names}
            for batch in table.iter_batches(CHUNK, columns=names):
                yield {name: _values(batch.column(name)) for name in names}
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(
                f"no whole Parquet file that can be read ({one_line(error)})"
            ) from error


def _columns(schema: Any, types: Any) -> list[str]:
    """The columns that a table keeps, their types checked."""
    names = list(schema.names)
    if len(set(names)) != len(names):
        raise ValueError(f"two columns have one name: {shown(', '.join(names))}")
    scored = score_columns(names)
    for name in names:
        kind = schema.field(name).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if name in scored and not (types.is_floating(kind) or types.is_integer(kind)):
            raise ValueError(
                f"expected scores in the column {shown(name, 40)}, got {kind}"
            )
    return [name for name in names if name in scored or name in NOT_SCORES[:3]]


def _values(column: Any) -> list[Any]:
    values = column.to_pylist()
    return [os.fsdecode(v) if isinstance(v, bytes) else v for v in values]
