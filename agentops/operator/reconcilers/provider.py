"""Provider: is it configured, are its Secrets there, who uses it, does its endpoint answer."""

from __future__ import annotations

import hashlib
from typing import Any

from agentops.api.conditions import ConditionType, ProviderPhase, Reason
from agentops.api.kinds import AGENT, PROVIDER
from agentops.api.objects import decode
from agentops.api.types import Provider
from agentops.api.validation import FieldError, validate_provider
from agentops.controller import Client, EventRecorder, Request, Result
from agentops.operator.inputs import provider_secrets
from agentops.operator.objects.probe_request import models_request
from agentops.operator.prober import INTERVAL_S, EndpointProber, Probe
from agentops.operator.reconcilers.fields import report_fields
from agentops.operator.secrets import Missing, SecretReader
from agentops.operator.status import StatusDraft
from agentops.values.clock import Clock

AGENTS_BY_PROVIDER = "provider"
"""Index of Agents by the Providers they bind."""
_API_KEY = "spec.apiKeySecret"


class ProviderReconciler:
    """Phase Ready means: an agent may be started with it."""

    def __init__(self, client: Client, recorder: EventRecorder, prober: EndpointProber, clock: Clock) -> None:
        self._client = client
        self._recorder = recorder
        self._prober = prober
        self._clock = clock

    async def reconcile(self, request: Request) -> Result | None:
        found = await self._client.try_get(PROVIDER, request.name, request.namespace)
        if found is None or found["metadata"].get("deletionTimestamp"):
            self._prober.forget(request)
            return None
        provider = decode(Provider, found)
        draft = StatusDraft(PROVIDER, found, self._clock.now())
        problems = validate_provider(provider)
        values, missing = await self._secrets(provider)
        self._config_condition(found, draft, problems)
        self._secret_condition(found, draft, provider, missing)
        self._phase(found, draft, problems, missing)
        report_fields(draft, provider)
        due_s = self._endpoint_condition(found, draft, request, provider, values, bool(problems or missing))
        draft.set(boundAgents=await self._bound_agents(request), observedGeneration=found["metadata"]["generation"])
        await draft.save(self._client)
        return Result(requeue_after=due_s) if due_s else None

    async def _secrets(self, provider: Provider) -> tuple[dict[str, bytes], list[Missing]]:
        """Values by field, and what is not there."""
        reader = SecretReader(self._client, provider.metadata.namespace)
        values, missing = {}, []
        for path, ref in provider_secrets(provider.spec):
            read = reader.header_value if path == _API_KEY else reader.secret_value
            value = await read(path, ref)
            if isinstance(value, Missing):
                missing.append(value)
            else:
                values[path] = value
        return values, missing

    def _config_condition(self, obj: dict[str, Any], draft: StatusDraft, problems: list[FieldError]) -> None:
        if not problems:
            draft.condition(ConditionType.CONFIG_VALID, True, Reason.VALID, "the configuration is complete")
            return
        message = "; ".join(str(problem) for problem in problems)
        if draft.condition(ConditionType.CONFIG_VALID, False, Reason.INVALID_CONFIG, message):
            self._recorder.event(obj, "Warning", Reason.INVALID_CONFIG, message)

    def _secret_condition(
        self, obj: dict[str, Any], draft: StatusDraft, provider: Provider, missing: list[Missing]
    ) -> None:
        if missing:
            message = "; ".join(item.message for item in missing)
            if draft.condition(ConditionType.SECRET_READY, False, missing[0].reason, message):
                self._recorder.event(obj, "Warning", missing[0].reason, message)
        elif provider_secrets(provider.spec):
            draft.condition(ConditionType.SECRET_READY, True, Reason.SECRET_EXISTS, "every named key has a value")
        else:
            draft.condition(ConditionType.SECRET_READY, True, Reason.NOT_APPLICABLE, "no Secret is named")

    def _phase(
        self, obj: dict[str, Any], draft: StatusDraft, problems: list[FieldError], missing: list[Missing]
    ) -> None:
        if not problems and not missing:
            draft.set(phase=ProviderPhase.READY.value, message=None)
            if draft.condition(ConditionType.READY, True, Reason.READY, "agents may use it"):
                self._recorder.event(obj, "Normal", Reason.READY, "Agents may use it")
            return
        reason = missing[0].reason if missing else Reason.INVALID_CONFIG
        message = "; ".join([*(item.message for item in missing), *(str(problem) for problem in problems)])
        draft.set(phase=ProviderPhase.FAILED.value, message=message)
        draft.condition(ConditionType.READY, False, reason, message)

    def _endpoint_condition(
        self,
        obj: dict[str, Any],
        draft: StatusDraft,
        request: Request,
        provider: Provider,
        values: dict[str, bytes],
        incomplete: bool,
    ) -> float | None:
        """Report the last answer and see that the question is asked in time; seconds until it is due again."""
        key = values.get(_API_KEY)
        wanted = models_request(provider.spec, key.decode("utf-8", "replace").strip() if key else None)
        if wanted is None:
            draft.drop_condition(ConditionType.ENDPOINT_REACHABLE)
            return None
        if incomplete:
            draft.condition(
                ConditionType.ENDPOINT_REACHABLE,
                None,
                Reason.CHECKING,
                "asked once configuration and Secrets are complete",
            )
            return None
        generation = obj["metadata"]["generation"]
        fingerprint = f"{generation}:{hashlib.sha256(key or b'').hexdigest()}"
        finding = self._prober.finding(request, fingerprint)
        if finding is not None:
            changed = draft.condition(ConditionType.ENDPOINT_REACHABLE, finding.status, finding.reason, finding.message)
            if changed and not finding.status:
                self._recorder.event(obj, "Warning", finding.reason, finding.message)
        else:
            known = draft.has(ConditionType.ENDPOINT_REACHABLE)
            if known is None or known.get("observedGeneration") != generation:
                message = f"asking {wanted[0]}"
                draft.condition(ConditionType.ENDPOINT_REACHABLE, None, Reason.CHECKING, message)
        due_s = self._prober.due_in_s(request, fingerprint)
        if due_s <= 0:
            self._prober.ask(self._probe(request, fingerprint, provider, wanted, key is not None))
            return INTERVAL_S
        return due_s

    def _probe(
        self, request: Request, fingerprint: str, provider: Provider, wanted: tuple[str, dict[str, str]], keyed: bool
    ) -> Probe:
        ref = provider.spec.api_key_secret
        if ref is not None:
            fix = f"put a valid key into Secret {request.namespace}/{ref.name}, key {ref.key!r} (spec.apiKeySecret)"
        elif provider.spec.endpoint.oauth2_client_credentials is not None:
            fix = "check spec.endpoint.oauth2ClientCredentials"
        else:
            fix = "the endpoint wants a key: name one in spec.apiKeySecret"
        # Without OAuth 2 the operator sends all that agents send, so a refusal means what it says.
        complete = keyed or provider.spec.endpoint.oauth2_client_credentials is None
        return Probe(
            request=request,
            fingerprint=fingerprint,
            url=wanted[0],
            headers=wanted[1],
            authenticated=complete,
            fix=fix,
        )

    async def _bound_agents(self, request: Request) -> int:
        return len(await self._client.list(AGENT, request.namespace, index=(AGENTS_BY_PROVIDER, request.name)))
