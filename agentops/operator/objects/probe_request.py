"""The request that asks a Provider's endpoint for its models, by type."""

from __future__ import annotations

from agentops.api.types import ProviderSpec


def models_request(spec: ProviderSpec, api_key: str | None) -> tuple[str, dict[str, str]] | None:
    """URL and headers, or None when the spec names no endpoint of its own."""
    base = (spec.endpoint.base_url or "").rstrip("/")
    if not base:
        return None
    headers = dict(spec.endpoint.headers)
    if spec.type == "anthropic":
        headers |= {"anthropic-version": "2023-06-01"}
        return f"{base}/v1/models", headers | ({"x-api-key": api_key} if api_key else {})
    if spec.type == "google":
        return f"{base}/v1beta/models", headers | ({"x-goog-api-key": api_key} if api_key else {})
    if spec.type == "azure":
        version = spec.config.azure_api_version or "2025-01-01-preview"
        return f"{base}/openai/models?api-version={version}", headers | ({"api-key": api_key} if api_key else {})
    return f"{base}/models", headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
