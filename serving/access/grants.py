"""What a caller may do: everything with a key; what its scopes say, for one patient perhaps, with a token (SMART App Launch 2.2, scopes v1 and v2)."""

import re
from dataclasses import dataclass

from serving.errors import Problem

_SCOPE = re.compile(r"(patient|user|system)/(\*|[A-Z][A-Za-z]+)\.(read|write|\*|c?r?u?d?s?)(\?.*)?")


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
    return parted(scope) is not None


def parted(scope: str) -> tuple[str, str, set[str]] | None:
    """Level, type and letters (c, r, u, d, s) of a scope on resources; None for others, and for those with a query."""
    found = _SCOPE.fullmatch(scope)
    if found is None or not found[3] or found[4]:
        return None
    return found[1], found[2], set({"read": "rs", "write": "cud", "*": "cruds"}.get(found[3], found[3]))


def allows(scopes: tuple[str, ...], action: str, kind: str) -> bool:
    """Whether some scope allows `read` (r, s) or `write` (c, u) on a type; `*` asks for some type."""
    wanted = set("rs" if action == "read" else "cu")
    return any(p[1] in ("*", kind) or kind == "*" for s in scopes if (p := parted(s)) is not None and p[2] & wanted)


def within(scope: str, wide: str) -> bool:
    """Whether a scope on resources asks for no more than `wide` does."""
    one, other = parted(scope), parted(wide)
    return one is not None and other is not None and one[0] == other[0] and other[1] in ("*", one[1]) and one[2] <= other[2]
