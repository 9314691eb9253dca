"""Pictures in class folders: checked, without duplicates, split, and with true labels.

A folder holds ``<class>/...``, or ``train/<class>/...``, ``test/<class>/...`` and
``val/<class>/...``. Nothing here deletes a picture: whatever is done is a list of
moves, which is written down before the first of them and can be undone.

The parts: `folder` finds the files, `check` looks at each, `fingerprints` and
`neighbours` find what looks the same, `duplicates` and `split` act on it, `judged`
joins a table of scores with the folder, `mistakes` and `sort` act on that, `sheets`
draws; `plan` finds free names, `moves` and `undo` touch the disk.
"""

from importlib.util import find_spec


def need(*packages: str) -> None:
    """Ask for packages of the extra `dataset`.

    Args:
        packages: as they are imported.

    Raises:
        ImportError: one is not installed; the message says how to install it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ImportError(
                f"this needs {package}: pip install 'open_nsfw_tf[dataset]'"
            )
