"""``report.anonymize=true``: pseudonyms for patients, studies and images in all that a run writes.

A pseudonym is a keyed hash (HMAC-SHA256), because names such as ``patient00001`` are few enough to be tried one by one
against a plain hash. The key never lies in a run directory: it is the user's own, one for all runs, so that the same
patient has the same pseudonym in each, runs can be compared and mixed, and leakage between them still shows. Whoever
has key and table can tell who is who; whoever has the run alone cannot.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd

from dam.config import Config
from dam.data.folds import FOLD_COLUMN
from dam.data.table import COLUMNS, ImageTable, without_names
from dam.errors import UserError
from dam.evaluation.groups import DEFAULTS
from dam.report.run_files import ANONYMIZED, read_mapping

ENV = "DAM_ANONYMIZE_KEY"
_BYTES = 32


def key_file() -> Path:
    """``$DAM_ANONYMIZE_KEY``, else ``anonymize.key`` in the user's own settings."""
    given = os.environ.get(ENV)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "dam" / "anonymize.key"


class Pseudonyms:
    """Names and what they are called outside, by one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[str, str] = {"": ""}

    @classmethod
    def open(cls, make: bool = False) -> Pseudonyms:
        """Those of the user's key; ``make``: drawn anew (mode 600) where there is none. Raises ``UserError``."""
        file = key_file()
        try:
            if make and not file.exists():
                _make(file)
            key = bytes.fromhex(file.read_text(encoding="ascii").strip())
        except FileNotFoundError as error:
            raise UserError(
                f"there is no key {file} for report.anonymize; put it back, or name another by ${ENV}"
            ) from error
        except OSError as error:
            raise UserError(
                f"the key {file} of report.anonymize cannot be used ({error.strerror}); name another file by ${ENV}"
            ) from error
        except ValueError:
            key = b""
        if len(key) != _BYTES:
            raise UserError(
                f"{file} is no key of report.anonymize: it should hold {2 * _BYTES} hexadecimal digits; put back a "
                f"copy of it, or name another by ${ENV}"
            )
        return cls(key)

    @property
    def mark(self) -> str:
        """Tells keys apart and nothing else."""
        return self._hash("the key itself")[:12]

    def name(self, name: str) -> str:
        """The pseudonym of a patient, study or image; "" of "". Equal names have equal ones, whatever they name."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = f"id_{self._hash(name)[:16]}"
        return found

    def names(self, names: Iterable[str]) -> list[str]:
        """The pseudonyms of many."""
        return [self.name(str(name)) for name in names]

    def digest(self, digest: str) -> str:
        """A digest of an image's content, keyed: without the key it finds no image whose file one has."""
        return self._hash(f"content {digest}")[: len(digest)]

    def frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A copy with pseudonyms in the columns image, patient and study, those that are there."""
        columns = [column for column in COLUMNS[:3] if column in frame.columns]
        return frame.assign(**{column: self.names(frame[column]) for column in columns})

    def table(self, table: ImageTable, kept: Collection[str]) -> ImageTable:
        """The table under pseudonyms, with the metadata columns ``kept`` only and notes that name nobody."""
        dropped = [column for column in table.metadata if column not in kept]
        names = {str(name) for column in COLUMNS[:3] for name in table.frame[column].unique()}
        frame = self.frame(table.frame.drop(columns=dropped))
        notes = [without_names(note, names) for note in table.notes]
        told = "report.anonymize: patients, studies and images have pseudonyms"
        if dropped:
            told += f"; left out {len(dropped)} metadata columns that no setting names"
        return ImageTable(frame, table.labels, table.root, table.name, (*notes, told), table.sources)

    def _hash(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def _make(file: Path) -> None:
    """A key, whole or not at all, and the first one where two processes make one at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as handle:
            handle.write(secrets.token_hex(_BYTES) + "\n")
            handle.flush()
            os.fsync(descriptor)
        file.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)


def kept_metadata(cfg: Config) -> set[str]:
    """The metadata columns of an anonymized run: those that a setting names, and what reports always group by."""
    named = {*cfg.evaluation.subgroups, *(cfg.metadata.columns if cfg.metadata is not None else ()), FOLD_COLUMN}
    return named | set(DEFAULTS)


def for_run(cfg: Config, path: Path | None = None) -> Pseudonyms | None:
    """Those of a run with this config, None without ``report.anonymize``. Of the run begun in ``path`` the key is the
    one it began with. Raises ``UserError``."""
    if not cfg.report.anonymize:
        return None
    return (of_run(path) if path is not None else None) or Pseudonyms.open(make=True)


def of_run(path: Path) -> Pseudonyms | None:
    """Those in a run's files, None where the names there are the table's own. Raises ``UserError`` without the key."""
    mark = read_mapping(path / "data.json").get(ANONYMIZED)
    if mark is None:
        return None
    try:
        found = Pseudonyms.open()
    except UserError as error:
        raise UserError(f"the names in {path} are pseudonyms: {error}") from error
    if found.mark != mark:
        raise UserError(
            f"the names in {path} are pseudonyms made by another key than {key_file()}; put back that key, or name its "
            f"file by ${ENV}"
        )
    return found
