"""Reading .npz archives that others wrote: plain arrays only, and one clear line for whatever is wrong."""

from __future__ import annotations

import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from jaxmia._validate import InputError


def read_npz(
    path: pathlib.Path, *, name: str, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return the arrays of an archive under the required keys and those of the optional keys it has.

    Pickled objects are never loaded.

    Args:
        path: the file.
        name: what the file is to its reader, for the message if there is none.
        required: keys it must have.
        optional: keys it may have; others are left alone.

    Raises:
        InputError: for a missing, foreign or damaged file, a missing key, or object arrays.
    """
    if not path.is_file():
        raise InputError(f"{name}={str(path)!r} must be an existing .npz file; there is none.")
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path} must be an .npz archive, got a single .npy array.")
            for key in required:
                if key not in archive.files:
                    raise InputError(
                        f"{path} must hold the key {key!r}, got {', '.join(archive.files) or 'no keys'}."
                    )
            return {key: archive[key] for key in (*required, *optional) if key in archive.files}
    except InputError:
        raise
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise InputError(
                f"{path} must hold plain numeric arrays; it has pickled objects, which are never loaded."
            ) from None
        raise InputError(f"{path} must be a readable .npz archive: {error}.") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise InputError(
            f"{path} must be a complete .npz archive; it is truncated or damaged ({error})."
        ) from None
