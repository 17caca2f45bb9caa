"""JWTs that others sign with their registered keys: for this very address, of today, once; ES384 or RS384, never HMAC or none."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import jwt

from serving.access.tokens import TokenStore

ALGORITHMS = ("RS384", "ES384")


class Assertions:
    """Issuers by name, each with the file of its public keys (jwks)."""

    def __init__(self, issuers: Mapping[str, Path], tokens: TokenStore) -> None:
        self._issuers, self._tokens = issuers, tokens

    def issuer(self, assertion: str, audience: str, subject: bool = False) -> str:
        """Who signed it. `subject`: it has to speak of itself. Raises PyJWTError, OSError, ValueError or KeyError: then it isn't taken."""
        head = jwt.get_unverified_header(assertion)
        told = jwt.decode(assertion, options={"verify_signature": False})
        name = str(told.get("iss", ""))
        if name not in self._issuers or (subject and told.get("sub") != name):
            raise jwt.InvalidIssuerError("the issuer isn't registered with keys")
        if head.get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError(f"sign with {' or '.join(ALGORITHMS)}")
        keys = [k for k in json.loads(self._issuers[name].read_text(encoding="utf-8"))["keys"] if k.get("kid") == head.get("kid")]
        if len(keys) != 1:
            raise jwt.InvalidKeyError("the key (kid) isn't in the issuer's jwks")
        required = ["exp", "iss", "aud", "jti", *(["sub"] if subject else [])]
        told = jwt.decode(assertion, jwt.PyJWK(keys[0], algorithm=head["alg"]), algorithms=[head["alg"]], audience=audience,
                          options={"require": required}, leeway=5)  # fmt: skip
        if told["exp"] > time.time() + 305:
            raise jwt.InvalidTokenError("exp is more than five minutes ahead")
        if not self._tokens.first_use(f"{name} {told['jti']}", 320):
            raise jwt.InvalidTokenError("the assertion was used before")
        return name
