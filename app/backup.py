"""A backup of the embedded database in one file, taken while it serves, and the way back.

    line 1      "Engram backup 1"
    line 2      JSON: revision, version, created_at, size_bytes and sha256 of the database
    the rest    the database as one SQLite file, zstd

It is whole or it is refused: a restore looks at every byte before it touches anything.
"""

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

import migrations
from app import __version__
from app.database import Database, utc_now
from app.errors import AlreadyExists, BackupDamaged, Conflict, NotFound
from app.settings import Settings

MAGIC = b"Engram backup 1\n"
MAX_HEAD_BYTES = 4096
LOCK_SECONDS = 2.0
SLICE_BYTES = 1 << 20


@dataclass(frozen=True)
class Backup:
    """What the second line of a backup says."""

    revision: str
    version: str
    created_at: str
    size_bytes: int
    sha256: str


def back_up(settings: Settings, target: Path) -> Backup:
    """Writes the database as it is at one moment; nobody who reads or writes meanwhile waits. The file appears when it is whole.

    Raises Conflict for a database that is not embedded, NotFound where there is none, AlreadyExists where `target` is there.
    """
    source = _find_database(settings)
    if not source.exists():
        raise NotFound(f"there is no database at {source}; ENGRAM_DATA_DIR or --data-dir says where it is")
    if target.exists():
        raise AlreadyExists(f"{target} is there already; name another file")
    database = Database(settings.database_url)
    with _make_beside(target) as plain, _make_beside(target) as packed:
        plain.unlink()
        with closing(sqlite3.connect(source, LOCK_SECONDS * 10)) as connection:
            connection.execute("VACUUM INTO ?", (str(plain),))
        database.close()
        revision = _read_revision(plain)
        backup = Backup(revision, __version__, utc_now().isoformat(timespec="seconds"), plain.stat().st_size, _hash(plain))
        with packed.open("wb") as out, plain.open("rb") as content:
            out.write(MAGIC + json.dumps(asdict(backup)).encode() + b"\n")
            zstandard.ZstdCompressor(write_checksum=True).copy_stream(content, out)
            out.flush()
            os.fsync(out.fileno())
        packed.rename(target)
        _sync(target.parent)
    return backup


def restore(settings: Settings, source: Path, *, replace: bool) -> tuple[Backup, Path | None]:
    """(what was restored, where the database that stood in its place is now). Nothing is touched before all of `source` was read.

    Raises BackupDamaged for a file that is no whole backup or of a newer version, AlreadyExists where there is a database and not
    `replace`, and Conflict where one is in use.
    """
    target = _find_database(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _make_beside(target) as plain:
        backup = _unpack(source, plain)
        _check(source, plain, backup)
        aside = None
        if target.exists():
            if not replace:
                raise AlreadyExists(
                    f"there is a database at {target}; --replace puts the backup in its place, and keeps it beside"
                )
            _close_journal(target)
            aside = target.with_name(f"{target.stem}-replaced-{utc_now():%Y%m%dT%H%M%SZ}{target.suffix}")
            target.rename(aside)
        for journal in ("-wal", "-shm"):
            target.with_name(target.name + journal).unlink(missing_ok=True)
        plain.rename(target)
        _sync(target.parent)
    return backup, aside


def _find_database(settings: Settings) -> Path:
    if not settings.is_database_embedded:
        raise Conflict(
            "the database is not embedded: back it up with pg_dump, and restore it with pg_restore (docs/operations.md)"
        )
    return Path(settings.database_url.removeprefix("sqlite:///"))


@contextmanager
def _make_beside(target: Path) -> Iterator[Path]:
    """A file of the same folder that is gone afterwards, unless it was moved."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _unpack(source: Path, plain: Path) -> Backup:
    """Writes the database of a backup to `plain`. Raises BackupDamaged."""
    try:
        with source.open("rb") as content, plain.open("wb") as out:
            backup = _read_head(source, content)
            frame = zstandard.ZstdDecompressor().decompressobj()
            while not frame.eof and (part := content.read(SLICE_BYTES)):
                out.write(frame.decompress(part))
            if not frame.eof or frame.unused_data or content.read(1):
                raise _damaged(source, "it was cut off, or something follows it")
            out.flush()
            os.fsync(out.fileno())
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {source}") from error
    except (zstandard.ZstdError, OSError) as error:
        raise _damaged(source, str(error)) from error
    return backup


def _read_head(source: Path, content: BinaryIO) -> Backup:
    if content.read(len(MAGIC)) != MAGIC:
        raise BackupDamaged(f"{source} is no backup of Engram's: `engram backup FILE` writes one", file=str(source))
    try:
        return Backup(**json.loads(content.readline(MAX_HEAD_BYTES)))
    except (ValueError, TypeError) as error:
        raise _damaged(source, f"its second line cannot be read: {error}") from error


def _check(source: Path, plain: Path, backup: Backup) -> None:
    found = (plain.stat().st_size, _hash(plain))
    if found != (backup.size_bytes, backup.sha256):
        expected = f"{backup.size_bytes} bytes with sha256 {backup.sha256}"
        raise _damaged(source, f"the database in it should be {expected}, and is {found[0]} bytes with {found[1]}")
    with closing(sqlite3.connect(plain)) as connection:
        said = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if said != "ok":
        raise _damaged(source, f"the database in it was damaged when it was backed up: {said}")
    head = migrations.head()
    if backup.revision[:4] > head[:4] and not migrations.fits(backup.revision, head):
        raise BackupDamaged(
            f"{source} is at revision {backup.revision}, and this version of Engram knows none after {head}: restore it with the version "
            f"that wrote it ({backup.version}), or a newer one",
            file=str(source),
        )


def _close_journal(path: Path) -> None:
    """Brings what the journal holds into the file, which nobody else may have open. Raises Conflict."""
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(path, LOCK_SECONDS)) as connection:
        try:
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise Conflict(f"{path} is in use: stop the service (engram serve, api, worker, scheduler) first") from error


def _read_revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def _hash(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(source: Path, reason: str) -> BackupDamaged:
    return BackupDamaged(
        f"{source} is damaged, and nothing was restored from it: {reason}; take another backup", file=str(source)
    )
