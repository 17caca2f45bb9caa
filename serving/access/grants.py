"""What a caller may do: everything with a key; what its scopes say, for one patient perhaps, with a token (SMART App Launch 2.2, scopes v1 and v2)."""

import re
from dataclasses import dataclass

from serving.errors import Problem

_SCOPE = re.compile(r"(patient|user|system)/(\*|[A-Z][A-Za-z]+)\.(read|write|\*|c?r?u?d?s?)(\?.*)?")
_LETTERS = {"read": "rs", "write": "cud"}


@dataclass(frozen=True)
class Grant:
    """A caller. `patient`: the one whom they may see; None: all. `scopes`: None for keys, which may everything."""

    name: str
    patient: str | None = None
    scopes: tuple[str, ...] | None = None
    user: str = ""
    """The person behind a token, as who signed in was called."""

    def may(self, action: str, kind: str) -> None:
        """Raises 403 where no scope allows to `read` or `write` resources of a type; `*` asks for some type."""
        if self.scopes is None or allows(self.scopes, action, kind):
            return
        what = "resources" if kind == "*" else kind
        raise Problem(
            403,
            "Scope",
            f"the token's scopes don't allow to {action} {what}",
            f"ask for system/{kind}.{'rs' if action == 'read' else 'cud'}",
        )


def is_resource_scope(scope: str) -> bool:
    """True for scopes on resources that can be read here; a v2 scope with a query isn't among them: it would be granted too widely."""
    found = _SCOPE.fullmatch(scope)
    return found is not None and bool(found[3]) and found[4] is None


def allows(scopes: tuple[str, ...], action: str, kind: str) -> bool:
    """Whether some scope allows `read` (r, s) or `write` (c, u) on a type."""
    for scope in scopes:
        found = _SCOPE.fullmatch(scope)
        if found is None or found[4]:
            continue
        letters = "cruds" if found[3] == "*" else _LETTERS.get(found[3], found[3])
        if (kind in (found[2], "*") or found[2] == "*") and set(letters) & set("rs" if action == "read" else "cu"):
            return True
    return False
