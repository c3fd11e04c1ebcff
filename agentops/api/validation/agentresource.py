"""The rules of an AgentResource: the block of its kind, and no other."""

from __future__ import annotations

from agentops.api.fields import fields_of
from agentops.api.types.agentresource import BLOCKS, KINDS, AgentResource, AgentResourceSpec
from agentops.api.validation import common
from agentops.api.validation.common import FieldError, forbidden, required


def validate_resource(resource: AgentResource) -> list[FieldError]:
    """Every error of the object by itself."""
    spec = resource.spec
    errors = common.one_of("spec.kind", spec.kind, KINDS)
    if not spec.display_name:
        errors.append(required("spec.displayName", "write the name shown to people"))
    wanted = BLOCKS.get(spec.kind)
    blocks = set(BLOCKS.values())
    given = {
        info.json_name
        for info in fields_of(AgentResourceSpec)
        if info.json_name in blocks and getattr(spec, info.name) is not None
    }
    if wanted and wanted not in given:
        errors.append(required(f"spec.{wanted}", f"kind {spec.kind} needs this block"))
    errors += [
        forbidden(f"spec.{block}", f"belongs to another kind than {spec.kind}; remove it")
        for block in sorted(given - {wanted})
    ]
    if spec.credentials is not None:
        errors += common.secret_ref("spec.credentials", spec.credentials.name, spec.credentials.key)
    return errors + _urls(spec)


def _urls(spec: AgentResourceSpec) -> list[FieldError]:
    urls = {
        "spec.github.apiURL": spec.github.api_url if spec.github else None,
        "spec.githubOrg.apiURL": spec.github_org.api_url if spec.github_org else None,
        "spec.gitlab.baseURL": spec.gitlab.base_url if spec.gitlab else None,
        "spec.gitlabGroup.baseURL": spec.gitlab_group.base_url if spec.gitlab_group else None,
        "spec.s3.endpoint": spec.s3.endpoint if spec.s3 else None,
    }
    errors = []
    for path, url in urls.items():
        if url is not None:
            errors += common.http_url(path, url)
    if spec.documentation is not None:
        if not spec.documentation.urls and spec.documentation.config_map_ref is None:
            errors.append(required("spec.documentation", "write urls or configMapRef"))
        for index, url in enumerate(spec.documentation.urls):
            errors += common.http_url(f"spec.documentation.urls[{index}]", url)
    return errors
