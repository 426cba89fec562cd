"""An identity provider's keys, its tokens, and what it serves over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from operations.http_server import Received, Server, answer

__all__ = ["AUDIENCE", "Issuer", "Key"]

AUDIENCE = "https://tools.example.com/mcp"


class Key:
    """A signing key, by its algorithm."""

    def __init__(self, kid: str | None, algorithm: str = "ES256", bits: int = 2048) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private: Any
        if algorithm == "EdDSA":
            self.private, kind = ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm
        elif algorithm == "ES256":
            self.private, kind = ec.generate_private_key(ec.SECP256R1()), ECAlgorithm
        else:
            self.private, kind = rsa.generate_private_key(65537, bits), RSAAlgorithm
        self.jwk: dict[str, Any] = json.loads(kind.to_jwk(self.private.public_key()))
        if kid is not None:
            self.jwk["kid"] = kid


class Issuer:
    """Makes tokens for its address, and answers what is asked there.

    Attributes:
        keys: What its key set holds; the first one signs.
        metadata: What its metadata says, beside or in place of the truth.
        answers: Ready answers by path, before anything else.
    """

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)
        self.url = ""
        self.metadata: dict[str, Any] = {}
        self.answers: dict[str, bytes] = {}

    def at(self, server: Server) -> Issuer:
        self.url = server.url
        return self

    async def handle(self, request: Received, writer: Any) -> None:
        if request.target in self.answers:
            writer.write(self.answers[request.target])
        elif request.target == "/keys":
            writer.write(answer(body={"keys": [key.jwk for key in self.keys]}))
        elif request.target == "/.well-known/openid-configuration":
            writer.write(answer(body={"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.metadata}))
        else:
            writer.write(answer(404))

    def token(self, subject: str | None = "ada", *, key: Key | None = None, **claims: Any) -> str:
        """A token that is good for a minute, but for `claims`; None takes a claim away."""
        signer, now = key or self.keys[0], int(time.time())
        whole = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 60, **claims}
        given = {name: value for name, value in whole.items() if value is not None}
        headers = {} if signer.kid is None else {"kid": signer.kid}
        return jwt.encode(given, signer.private, algorithm=signer.algorithm, headers=headers)

    def toml(self, *more: str) -> str:
        return "\n".join(["[server.auth]", f'issuer = "{self.url}"', f'audience = "{AUDIENCE}"', *more, ""])
