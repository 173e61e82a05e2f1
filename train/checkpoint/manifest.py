"""A list of a directory's files with their sha256, so that damage is found on load.

Orbax restores a file with a flipped byte without noticing.
"""

import hashlib
import json
import pathlib

from train.run_dir.links import leads_inside

NAME = "manifest.json"


class Damaged(Exception):
    """A file of a checkpoint is missing, truncated or altered; the text names it."""


def write(directory: pathlib.Path) -> None:
    """Hash every file below `directory` into its manifest."""
    files = {
        str(path.relative_to(directory)): [path.stat().st_size, _sha256(path)]
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"self": _digest(files), "files": files}, indent=1)
    (directory / NAME).write_text(text)


def verify(directory: pathlib.Path) -> None:
    """Check every file that the manifest lists.

    Raises:
        Damaged: a file, or the manifest, is not as it was written.
    """
    path = directory / NAME
    try:
        manifest = json.loads(path.read_bytes())
        files = {
            str(name): (int(size), str(sha256))
            for name, (size, sha256) in manifest["files"].items()
        }
        intact = manifest["self"] == _digest(manifest["files"])
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{path} is corrupted") from None
    if not intact:
        raise Damaged(f"{path} is corrupted")
    for name, (size, sha256) in files.items():
        path = directory / name
        if not leads_inside(path, directory.resolve()):
            raise Damaged(f"{directory / NAME} names {name}, which lies outside")
        try:
            found = path.stat().st_size
            if found != size:
                raise Damaged(f"{path} has {found} bytes, {size} were written")
            if _sha256(path) != sha256:
                raise Damaged(f"{path} is corrupted (its sha256 differs)")
        except FileNotFoundError:
            raise Damaged(f"{path} is missing") from None
        except OSError as error:
            raise Damaged(f"{path} cannot be read ({error.strerror})") from None


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(files: dict[str, list[int | str]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
