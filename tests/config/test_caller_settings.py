"""What a declaration says of callers: read, handed on to the policy, and refused in one line where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raincheck.composition.operations import make_operations
from raincheck.config.loading import load_settings
from raincheck.domain.caller import Caller
from raincheck.encryption.cipher import new_key
from raincheck.errors import ConfigurationError, UnknownOperation
from raincheck.operations.callers import check_may_call, may_call
from raincheck.operations.operation import Policy

ASK = """[operations.ask]
kind = "http"
url = "http://127.0.0.1:9/a"
description = "Ask."
"""
RUN = '[operations.run]\nkind = "command"\nargv = ["true"]\ndescription = "Run."\n'
SEALED = '[encryption]\nkeys = ["${SEAL_KEY}"]\n'


def made(folder: Path, toml: str) -> Policy:
    (folder / "raincheck.toml").write_text(toml)
    return make_operations(load_settings(folder / "raincheck.toml", environ={}))["ask"].policy


def test_what_is_set_reaches_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAL_KEY", new_key())
    policy = made(
        tmp_path,
        f'{SEALED}{ASK}callers = ["local"]\nrequired_scopes = ["a", "b"]\ncaller_claims = ["tenant"]\n'
        'caller_token = true\nforward_headers = ["X-Tenant"]\n'
        'headers = {Authorization = "Bearer {caller.token}", T = "{caller.claims.tenant}{caller.headers.x-tenant}"}\n',
    )
    assert (policy.callers, policy.required_scopes) == (("local",), ("a", "b"))
    assert (policy.caller_claims, policy.caller_token, policy.forward_headers) == (("tenant",), True, ("X-Tenant",))


def test_the_example_of_the_page_can_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAINCHECK_KEY", new_key())
    example = Path(__file__).parents[2] / "examples" / "auth_callers.toml"
    assert make_operations(load_settings(example, environ={}))["export_orders"].policy.caller_token


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('callers = ["ada"]', 'callers: \'ada\' is no scope; allowed: "local", "anonymous", "principal:client=NAME"'),
        ('callers = ["*"]', 'a principal may have `*`: "principal:iss=ISSUER|*"; leave callers out to allow every one'),
        ('required_scopes = [""]', "required_scopes must be a list of texts that are not empty"),
        ('forward_headers = ["a b"]', "forward_headers: 'a b' is no header's name"),
        ("caller_token = true", "caller_token keeps secrets of callers, which needs an encryption key: set 'keys' in"),
        ('forward_headers = ["X-A"]', "forward_headers keeps secrets of callers, which needs an encryption key"),
        ('headers = {A = "{caller.token}"}', "{caller.token} needs caller_token = true"),
        ('headers = {A = "{caller.headers.x-a}"}', '{caller.headers.x-a} needs "x-a" in forward_headers'),
        ('headers = {A = "{caller.claims.tenant}"}', '{caller.claims.tenant} needs "tenant" in caller_claims'),
        ('headers = {A = "{caller.name}"}', "there is no {caller.name}; allowed: caller.scope, caller.subject,"),
        ('method = "POST"\nbody = {t = "{caller.token}"}', "{caller.token} may stand in headers only"),
        ('parameters = {"caller.subject" = {}}', "a parameter must not be named 'caller.subject'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        made(tmp_path, f"{ASK}{more}\n")
    assert told in refused.value.message
    assert "[operations.ask] of " in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("member", ["caller_token = true", 'forward_headers = ["X-A"]'])
def test_a_program_is_given_no_secret_of_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    monkeypatch.setenv("SEAL_KEY", new_key())
    with pytest.raises(ConfigurationError) as refused:
        made(tmp_path, f"{SEALED}{RUN}{member}\n")
    assert refused.value.message.startswith("[operations.run] of ")
    told = f'{member.partition(" ")[0]} is for kind = "python" and "http": a program gets no secret of its caller'
    assert refused.value.message.endswith(told)


@pytest.mark.parametrize(
    ("policy", "scope", "granted", "may"),
    [
        ({}, "anonymous", (), True),
        ({"callers": ("local",)}, "local", (), True),
        ({"callers": ("local",)}, "principal:client=local", (), False),
        ({"callers": ("principal:client=ada",)}, "principal:client=ada", (), True),
        ({"callers": ("principal:client=ada",)}, "principal:client=ada2", (), False),
        ({"callers": ("principal:iss=i|*",)}, "principal:iss=i|sub=ada", (), True),
        ({"callers": ("principal:iss=i|*",)}, "principal:iss=j|sub=iss=i|ada", (), False),
        ({"callers": ("principal:client=[a]",)}, "principal:client=a", (), False),
        ({"required_scopes": ("a", "b")}, "principal:client=ada", ("b", "c", "a"), True),
        ({"required_scopes": ("a", "b")}, "principal:client=ada", ("a",), False),
        ({"required_scopes": ("a",)}, "anonymous", (), False),
        ({"required_scopes": ("a",)}, "local", (), True),
    ],
)
def test_who_may_call(policy: dict[str, Any], scope: str, granted: tuple[str, ...], may: bool) -> None:
    caller, declared = Caller(scope=scope, granted_scopes=granted), Policy(**policy)
    assert may_call(declared, caller) is may
    if may:
        check_may_call("ask", declared, caller)
    else:
        with pytest.raises(UnknownOperation, match="'ask' is not open to you"):
            check_may_call("ask", declared, caller)
