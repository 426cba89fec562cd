"""The webhook policy, as set: allowed addresses of callers, secrets, and the bounds of retries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from raincheck.egress.client import EgressClient
from raincheck.egress.errors import RequestRefused
from raincheck.egress.ip_ranges import Network, network_of
from raincheck.egress.policy import EgressPolicy, HostRule, Target
from raincheck.errors import InvalidParameters
from raincheck.operations.webhook import checked_secrets
from raincheck.tasks.registry import refuse_callbacks


def _guarded(rules: EgressPolicy, seconds: float) -> EgressClient:
    return EgressClient(rules, connect_seconds=seconds, total_seconds=seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookRules:
    """The settings of [webhooks], ready for use.

    Attributes:
        allow: The hosts to which a caller's `callback_url` may point.
        networks: Networks that may be requested although they are not public.
        secrets: Sign what has no secrets of its own, the newest first.
        timeout_seconds: The bound on one attempt.
        give_up_seconds: For how long it is tried, counted from the task's end.
        max_concurrency: How many attempts are under way at once in this process.
        first_backoff_seconds: The longest pause after the first attempt; it doubles with each, up to an hour.
        client: Makes what sends, of rules and the bound on an attempt.
    """

    allow: Sequence[HostRule] = ()
    networks: Sequence[Network] = ()
    secrets: Sequence[str] = field(default=(), repr=False)
    timeout_seconds: float = 10.0
    give_up_seconds: float = 86400.0
    max_concurrency: int = 20
    first_backoff_seconds: float = 5.0
    client: Callable[[EgressPolicy, float], EgressClient] = _guarded

    @classmethod
    def parsed(
        cls,
        *,
        place: str,
        allow: Sequence[str],
        allow_networks: Sequence[str],
        secrets: Sequence[str],
        timeout_seconds: float,
        give_up_seconds: float,
        max_concurrency: int,
    ) -> WebhookRules:
        """Of the texts of [webhooks], which were checked; secrets may stand in the environment.

        Raises:
            ConfigurationError: One does not; the message begins with `place`.
        """
        return cls(
            allow=tuple(map(HostRule.parse, allow)),
            networks=tuple(map(network_of, allow_networks)),
            secrets=checked_secrets(secrets, place),
            timeout_seconds=timeout_seconds,
            give_up_seconds=give_up_seconds,
            max_concurrency=max_concurrency,
        )

    def check_callback(self, url: str) -> str:
        """A caller's `callback_url`, if it is one that may be told.

        Raises:
            InvalidParameters: It is none.
        """
        if not self.allow:
            refuse_callbacks(url)
        try:
            self.of_callbacks().check(url)
        except RequestRefused as error:
            raise InvalidParameters(
                f"callback_url: {error.message}.", details={"allowed_hosts": [str(rule) for rule in self.allow]}
            ) from None
        return url

    def of_callbacks(self) -> EgressPolicy:
        """Where callers may have requests sent."""
        return EgressPolicy(hosts=self.allow, networks=self.networks)

    def of_own(self, url: str) -> EgressPolicy:
        """Where an operation's own webhook is: there and nowhere else, and its address is checked as any other."""
        return EgressPolicy(hosts=[HostRule.of(Target.parse(url))], networks=self.networks)
