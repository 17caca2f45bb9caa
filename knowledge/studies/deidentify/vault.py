"""The vault: one key from which pseudonyms, UIDs and date shifts follow, and the way back, encrypted.

The same patient, study and day always get the same pseudonym, UID and shift, so what is exported today fits what is exported later.
Without the key nothing leads back.
"""

import base64
import hashlib
import hmac
import os
import sqlite3
import threading
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.fernet import Fernet

from knowledge.errors import NotFound

MAX_SHIFT_DAYS = 3650


class Vault:
    """Pseudonyms of one archive. `folder` is readable by its owner alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = _key_in(folder / "vault.key")
        self._cipher = Fernet(base64.urlsafe_b64encode(hmac.digest(self._key, b"storage", "sha256")))
        self._lock = threading.Lock()
        self._database = sqlite3.connect(folder / "vault.db", check_same_thread=False)
        with self._lock, self._database:
            self._database.execute("CREATE TABLE IF NOT EXISTS names (pseudonym TEXT PRIMARY KEY, sealed BLOB NOT NULL)")
        os.chmod(folder / "vault.db", 0o600)

    def _mac(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}|{value}".encode(), "sha256")

    def _remember(self, pseudonym: str, original: str) -> str:
        with self._lock, self._database:
            self._database.execute(
                "INSERT OR IGNORE INTO names VALUES (?, ?)", (pseudonym, self._cipher.encrypt(original.encode()))
            )
        return pseudonym

    def patient(self, patient_id: str) -> str:
        """The pseudonym of a patient's ID."""
        made = base64.b32encode(self._mac("patient", patient_id))[:12].decode()
        return self._remember(f"ANON-{made}", patient_id)

    def uid(self, uid: str) -> str:
        """A UID under 2.25 (PS3.5 B.2) in place of `uid`."""
        return self._remember(f"2.25.{int.from_bytes(self._mac('uid', uid)[:15])}", uid)

    def number(self, value: str) -> str:
        """A stand-in for an accession number or another identifier."""
        return self._remember(base64.b32encode(self._mac("number", value))[:12].decode(), value)

    def shift_days(self, patient_id: str) -> int:
        """By how many days this patient's dates move: always into the past, never by none."""
        return -(1 + int.from_bytes(self._mac("dates", patient_id)[:4]) % MAX_SHIFT_DAYS)

    def shifted(self, patient_id: str, value: str) -> str:
        """A date (DA) or date-time (DT) moved by the patient's shift; empty where it isn't one."""
        try:
            day = datetime.strptime(value[:8], "%Y%m%d") + timedelta(days=self.shift_days(patient_id))
        except (ValueError, OverflowError):
            return ""
        return f"{day:%Y%m%d}{value[8:]}"

    def original(self, pseudonym: str) -> str:
        """What a pseudonym or a made UID stands for. Raises NotFound for one that this vault didn't make."""
        with self._lock:
            row = self._database.execute("SELECT sealed FROM names WHERE pseudonym = ?", (pseudonym,)).fetchone()
        if row is None:
            raise NotFound("this vault made no such pseudonym", "check it, and which archive it came from")
        return self._cipher.decrypt(row[0]).decode()


def _key_in(path: Path) -> bytes:
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)  # the first of two that start at once wins
        except FileExistsError:
            pass
        finally:
            part.unlink()
    return hashlib.sha256(path.read_bytes()).digest()
