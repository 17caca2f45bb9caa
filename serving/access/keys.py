"""Keys: made at first start, kept as hashes; the local key alone can be read back, by its owner, for the chat link."""

import hashlib
import hmac
import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from knowledge.evidence import Frozen

LOCAL = "local"


class Key(Frozen):
    """A key as it is listed: never the secret itself."""

    name: str
    created: str
    sha256: str
    role: str | None = None
    """What the settings' `tools_for` knows its holder as."""


class KeyRing:
    """The keys of one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "keys.json"

    def keys(self) -> list[Key]:
        """All keys that are let in."""
        return [Key(**k) for k in json.loads(self._file.read_text())] if self._file.exists() else []

    def create(self, name: str, role: str | None = None) -> str:
        """A new key; it is shown this once. Raises ValueError where the name is taken."""
        if any(k.name == name for k in self.keys()):
            raise ValueError(f"there is a key named {name!r} already")
        secret = f"ck_{secrets.token_urlsafe(32)}"
        created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self._write([*self.keys(), Key(name=name, created=created, sha256=_hash(secret), role=role)])
        return secret

    def revoke(self, name: str) -> bool:
        """Take a key out; False where there is none of that name."""
        left = [k for k in self.keys() if k.name != name]
        found = len(left) < len(self.keys())
        self._write(left)
        if name == LOCAL:
            (self.folder / "local.key").unlink(missing_ok=True)
        return found

    def local(self) -> str:
        """The key of the chat link: made at first start, readable by the owner of the data folder alone."""
        path = self.folder / "local.key"
        if path.exists() and self.admits(path.read_text().strip()) is not None:
            return path.read_text().strip()
        self.revoke(LOCAL)
        secret = self.create(LOCAL)
        _private(path, secret)
        return secret

    def admits(self, secret: str) -> str | None:
        """The name of the key that `secret` is, or None."""
        found = self.key(secret)
        return found.name if found else None

    def key(self, secret: str) -> Key | None:
        """The key that `secret` is, or None."""
        given = _hash(secret)
        return next((k for k in self.keys() if hmac.compare_digest(k.sha256, given)), None)

    def _write(self, keys: list[Key]) -> None:
        _private(self._file, json.dumps([k.model_dump() for k in keys], indent=1))


def secret_of(folder: Path) -> bytes:
    """A secret of this data folder, made when it is first needed: what exports shift dates and name messages by."""
    path = folder / "export.key"
    if not path.exists():
        _private(path, secrets.token_hex(32))
    return bytes.fromhex(path.read_text().strip())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.replace(path)
