"""Settings of stores, queues and workers: every mistake is one line, and no password is in any of them."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from raincheck.composition.adapters import make_engine, make_store
from raincheck.config.loading import load_settings
from raincheck.config.sections.state import public_url
from raincheck.config.settings import Settings
from raincheck.errors import ConfigurationError, MissingDependency

POSTGRES = "[state]\nprovider = 'postgres'\nurl = 'postgresql://ada:hunter2@db/x'\n"
REDIS = "[state]\nprovider = 'redis'\nurl = 'redis://:hunter2@db:6379/0'\n"
DYNAMODB = "[state]\nprovider = 'dynamodb'\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, environ: dict[str, str] | None = None) -> Settings:
    Path("raincheck.toml").write_text(text)
    return load_settings(None, environ=environ or {})


def mistake(text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(text, environ)
    message = caught.value.message
    assert len(message.splitlines()) == 1
    assert "hunter2" not in message
    return message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[state]\nprovider = 'postgresql'", ["[state]", 'allowed: "sqlite", "postgres"', "did you mean postgres?"]),
        ("[state]\nprovider = 'rocks'", ["invalid value \"rocks\" for 'provider' in [state]"]),
        ("[state]\nprovider = 'postgres'", ["'url' must begin with postgresql:// or postgres://", "[state]"]),
        ("[state]\nprovider = 'postgres'\nurl = 'mysql://ada:hunter2@db'", ["'url' must begin with", '"postgres"']),
        ("[state]\nprovider = 'redis'\nurl = 'hunter2'", ["redis:// or rediss:// or unix://", '"redis"', "[state]"]),
        ("[state]\nprovider = 'dynamodb'\nurl = 'hunter2'", ["http:// or https://", '"dynamodb"', "[state]"]),
        ("[state]\nprovider = 'memory'\nurl = 'x'", ["'url' must be empty", '"memory"', "[state]"]),
        ("[state]\nurl = 'postgresql://ada:hunter2@db/x'", ["'url' must be a file's path", '"sqlite"', "[state]"]),
        ("[state]\nurl = ['hunter2']", ["invalid value for 'url' in [state]", "allowed: a text"]),
        (POSTGRES + "schema_name = 'Big'", ["\"Big\" for 'schema_name' in [state]", "1 to 63 of a-z, 0-9 and _"]),
        (REDIS + "key_prefix = 'a{b}'", ["'key_prefix' in [state]", "1 to 100 characters, without blanks"]),
        (REDIS + "key_prefix = ''", ["'key_prefix' in [state]", "1 to 100 characters"]),
        (REDIS + f"key_prefix = '{'x' * 101}'", ["'key_prefix' in [state]", "1 to 100 characters"]),
        (DYNAMODB + "table = 'a b'", ["'table' in [state]", "3 to 255 letters, digits, _, . and -"]),
        (DYNAMODB + "region = 'Frankfurt am Main'", ["'region' in [state]", 'as in "eu-central-1"']),
        (POSTGRES + "migrate = 'never'", ["\"never\" for 'migrate' in [state]", '"auto" or "check"']),
        (POSTGRES + "pool_size = 0", ["0 for 'pool_size' in [state]", "from 1 up to 1000"]),
        (POSTGRES + "timeout_seconds = 0", ["'timeout_seconds' in [state]", "from 0.1 up to 60"]),
        (POSTGRES + "tls_key = 'k.pem'", ["'tls_cert' and 'tls_key' go together in [state]"]),
        ("[execution]\nengine = 'pydocket'", ["[execution]", '"local", "docket" or "procrastinate"', "mean docket?"]),
        ("[execution]\nengine = 'celery'", ["invalid value \"celery\" for 'engine'", '"local", "docket"']),
        ("[execution]\nengine = 'docket'", ["'queue_url' in [execution] must begin with redis://", '"docket"']),
        (REDIS + "[execution]\nengine = 'procrastinate'", ["'queue_url' in [execution]", "postgresql://"]),
        ("[execution]\nqueue_url = 'redis://:hunter2@q'", ["'queue_url' in [execution] must be empty", '"local"']),
        ("[execution]\nqueue_url = 3", ["invalid value for 'queue_url' in [execution]"]),
        (
            "[state]\nprovider = 'memory'\n[execution]\nengine = 'docket'\nqueue_url = 'redis://:hunter2@q'",
            ["'provider' in [state] must not be \"memory\"", '"docket"'],
        ),
        (REDIS + "[execution]\nqueue_name = 'a b'", ["'queue_name' in [execution]", "1 to 64 letters"]),
        (REDIS + "[execution]\nreconcile_seconds = 0", ["'reconcile_seconds' in [execution]", "from 0.2 up to 3600"]),
        ("[worker]\nhealth_port = 70000", ["70000 for 'health_port' in [worker]", "from 0 up to 65535"]),
        ("[worker]\nhealth_host = ''", ["'health_host' in [worker]", "a text, not empty"]),
        ("[worker]\ndrain_seconds = 3", ['unknown key "drain_seconds" in [worker]', "health_host, health_port"]),
        ("[workers]\nhealth_port = 1", ["unknown table [workers]", "did you mean worker?"]),
    ],
)
def test_a_mistake_is_one_line_with_file_table_key_and_what_is_allowed(text: str, parts: list[str]) -> None:
    message = mistake(text)
    assert "raincheck.toml" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("", {"RAINCHECK_STATE__URL": "redis://:hunter2@db"}, "RAINCHECK_STATE__URL"),
        ("[state]\nprovider='redis'", {"RAINCHECK_STATE__URL": "postgresql://:hunter2@db"}, "RAINCHECK_STATE__URL"),
        (
            "[execution]\nengine = 'docket'",
            {"RAINCHECK_EXECUTION__QUEUE_URL": "postgresql://:hunter2@db"},
            "RAINCHECK_EXECUTION__QUEUE_URL",
        ),
    ],
)
def test_an_address_that_does_not_fit_names_the_variable_that_holds_it(
    text: str, environ: dict[str, str], named: str
) -> None:
    assert named in mistake(text, environ)


def test_the_settings_do_not_show_an_address_when_they_are_shown() -> None:
    settings = load(POSTGRES + "[execution]\nengine = 'docket'\nqueue_url = 'redis://:hunter2@q'\n")
    assert settings.queue_url == "redis://:hunter2@q"
    assert "hunter2" not in repr(settings) + str(settings) + repr(settings.state) + repr(settings.execution)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:hunter2@db.example.com:5432/tasks", "postgresql://db.example.com:5432/tasks"),
        ("postgresql://db/tasks?user=ada&password=hunter2", "postgresql://db/tasks"),
        ("postgresql://ada:hun/ter2@db/tasks", "postgresql://…"),
        ("postgresql://ada:hun?ter2@db/tasks", "postgresql://…"),
        ("postgresql://ada:hun@ter2@db/tasks", "postgresql://…"),
        ("postgresql://ada@a:1,b:2/tasks?password=hun@ter2", "postgresql://…"),
        ("rediss://:hunter2@cache:6380/1", "rediss://cache:6380/1"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("hunter2", "…"),
        ("", "…"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    ("text", "module", "told"),
    [
        (POSTGRES, "psycopg", r'the store "postgres" needs psycopg: .*pip install .*\[postgres\]"'),
        (POSTGRES, "psycopg_pool", r'the store "postgres" needs psycopg_pool: .*pip install .*\[postgres\]"'),
        (REDIS, "redis", r'the store "redis" needs redis: .*pip install .*\[redis\]"'),
        (DYNAMODB, "aiobotocore", r'the store "dynamodb" needs aiobotocore: .*pip install .*\[dynamodb\]"'),
    ],
)
def test_a_store_whose_extra_is_not_installed_names_it(
    text: str, module: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(module, monkeypatch)
    with pytest.raises(MissingDependency, match=told):
        make_store(load(text))


@pytest.mark.parametrize("engine", ["docket", "procrastinate"])
def test_an_engine_whose_extra_is_not_installed_names_it(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(engine, monkeypatch)
    settings = load(f"[execution]\nengine = '{engine}'\nqueue_url = '{QUEUES[engine]}'\n")
    with pytest.raises(MissingDependency, match=rf'"{engine}" needs {engine}: .*pip install .*\[{engine}\]"'):
        make_engine(settings)


def test_a_certificate_that_is_not_there_is_one_line() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'tls_ca' in \[state\] of raincheck\.toml: there is no file .*ca\.pem"
    ):
        make_store(load(POSTGRES + "tls_ca = 'ca.pem'"))


QUEUES = {"docket": "redis://q", "procrastinate": "postgresql://q/x"}


def without(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no such module."""
    found = importlib.util.find_spec

    def find(name: str) -> ModuleSpec | None:
        return None if name == module else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
