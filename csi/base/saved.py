"""Reads JSON that this driver has saved, without trust: checks size, depth, and the types of a dataclass's fields.

A file may be damaged, may have been written by a release before or after this one, or (on the NAS) by anybody. So:

- an unknown key is no error, since a later release may know it. Whoever rewrites a record keeps such keys.
- a missing key has the default of its field; if there is none, the record is damaged.
- anything else that is wrong is a :class:`DamagedError`, which concerns that one record and never the next.
"""

import contextlib
import hashlib
import json
import os
import time
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

#: Longest record: a target of 4,095 bytes and a source of 2,048 characters, each of which JSON may escape.
RECORD_BYTES_MAX = 256 * 1024
#: Most damaged files that are kept for a person to look at; then the oldest go.
_SET_ASIDE_MAX = 32
_SHOWN_LENGTH_MAX = 64

_T = TypeVar("_T")


class DamagedError(ValueError):
    """A record that cannot be used, and what is wrong with it."""


def decoded(text: bytes, *, bytes_max: int = RECORD_BYTES_MAX) -> Any:  # noqa: ANN401 - JSON is anything
    """The value that ``text`` is in JSON; raises DamagedError, also for what is too long or nested too deeply."""
    if len(text) > bytes_max:
        raise DamagedError(f"it is longer than {bytes_max} bytes")
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise DamagedError("it is nested too deeply") from None
    except ValueError as error:
        raise DamagedError(f"it is not JSON: {error}") from None


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number")


def checked(kind: type[_T], found: object) -> _T:
    """An object of the dataclass ``kind`` from JSON's fields; raises DamagedError that names the field.

    Types are exact: True is no number, and nothing is converted. Half a character, as JSON can write it, is no text:
    whoever prints or hashes it would fail.
    """
    if not isinstance(found, dict):
        raise DamagedError("it is not a JSON object")
    hints = typing.get_type_hints(kind)
    values: dict[str, object] = {}
    for field in fields(kind):  # type: ignore[arg-type]  # a dataclass, by contract
        if field.name in found:
            values[field.name] = _value(hints[field.name], found[field.name], name=field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise DamagedError(f"field {field.name!r} is missing")
    return kind(**values)


def unknown_keys(kind: type, found: Mapping[str, object]) -> dict[str, object]:
    """The keys of a record that are no fields of ``kind``: a later release has put them there."""
    known = {field.name for field in fields(kind)}
    return {name: value for name, value in found.items() if name not in known}


def _value(hint: Any, value: object, *, name: str) -> object:  # noqa: ANN401 - a type
    origin = typing.get_origin(hint)
    if is_dataclass(hint):
        return checked(typing.cast("type[object]", hint), value)
    if origin is list and isinstance(value, list):
        (item,) = typing.get_args(hint)
        return [_value(item, one, name=name) for one in value]
    if origin is dict and isinstance(value, dict):
        _, item = typing.get_args(hint)
        return {_value(str, key, name=name): _value(item, one, name=name) for key, one in value.items()}
    if isinstance(value, str) and not _is_text(value):
        raise DamagedError(f"field {name[:_SHOWN_LENGTH_MAX]!r} has half a character (a lone surrogate)")
    allowed = typing.get_args(hint) if origin in (types.UnionType, typing.Union) else (hint,)
    if type(value) in allowed or (type(value) is int and float in allowed):
        return value
    shown = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise DamagedError(f"field {name[:_SHOWN_LENGTH_MAX]!r} is not of type {shown}")


def _is_text(value: str) -> bool:
    try:
        value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


class Folder:
    """JSON files of this node, each named by a hash: what is recorded never becomes part of a path.

    Writing is a rename without an fsync, which only a power failure would need: readers see an old or a new file, never
    half of one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Makes the folder, which only root may enter."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def file_of(self, key: str) -> Path:
        """Where the record of ``key`` is, or would be."""
        return self.path / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:32]}.json"

    def write(self, key: str, record: Mapping[str, object]) -> None:
        """Replaces the record of ``key``; raises OSError."""
        path = self.file_of(key)
        temporary = path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(record))
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def remove(self, key: str) -> None:
        """Removes the record of ``key``; that there is none is success."""
        self.file_of(key).unlink(missing_ok=True)

    def files(self) -> list[Path]:
        """The files of all records; without a folder there are none."""
        try:
            return sorted(path for path in self.path.iterdir() if path.suffix != ".new")
        except FileNotFoundError:
            return []

    def drafts(self) -> list[Path]:
        """Files that were being written when their writer died."""
        return sorted(self.path.glob("*.new"))

    def forget_others(self, keys: Iterable[str]) -> None:
        """Removes all records but those of ``keys``; what cannot be removed stays."""
        wanted = {self.file_of(key).name for key in keys}
        for path in [*self.files(), *self.drafts()]:
            if path.name not in wanted:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    @staticmethod
    def read(path: Path) -> Any:  # noqa: ANN401 - JSON is anything
        """The value that the file ``path`` is in JSON; raises DamagedError or FileNotFoundError."""
        try:
            with path.open("rb") as file:
                return decoded(file.read(RECORD_BYTES_MAX + 1))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DamagedError(f"it cannot be read: {error.strerror}") from None

    def set_aside(self, path: Path) -> Path | None:
        """Moves a damaged file to ``damaged`` beside this folder, where nobody reads it; None if that fails."""
        folder = self.path.parent / "damaged"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            new = folder / f"{path.stem}.{time.time_ns()}{path.suffix}"
            path.rename(new)
        except OSError:
            return None
        for old in _oldest(folder):
            with contextlib.suppress(OSError):
                old.unlink()
        return new


def _oldest(folder: Path) -> Iterator[Path]:
    """The oldest files in ``folder``, as many as are more than may be kept."""
    by_age = sorted((path.lstat().st_ctime_ns, path) for path in folder.iterdir())
    yield from (path for _, path in by_age[:-_SET_ASIDE_MAX])
