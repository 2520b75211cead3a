"""Which images and labels a benchmark ran on: a hash by which two runs know that theirs were the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ..errors import DataError
from ..files import sha256

if TYPE_CHECKING:
    from ..data import Dataset


def data_sha256(dataset: Dataset) -> str:
    """Hex SHA-256 over names and contents of the images and labels of a dataset, in its order.

    Paths do not enter it: a copy elsewhere has the same hash. Raises DataError for an unreadable file.
    """
    digest = hashlib.sha256()
    for item in dataset.items:
        try:
            contents = [sha256(path) for path in (item.image, item.label) if path is not None]
        except OSError as error:
            raise DataError(
                f"cannot read {error.filename}: {error.strerror}. Check the path and its permissions."
            ) from error
        digest.update("\0".join((item.name, *contents, "\n")).encode())
    return digest.hexdigest()
