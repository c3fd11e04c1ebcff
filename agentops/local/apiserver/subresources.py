"""Everything below an object: status, scale, binding, eviction, token, finalize, logs, exec, proxies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentops.kube.patches import JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, PatchError, json_patch, merge_patch
from agentops.local.apiserver import errors
from agentops.local.apiserver.auth import AUDIENCE, Attributes
from agentops.local.apiserver.eviction import evict
from agentops.local.apiserver.http import Answer, Request, User, json_response
from agentops.local.apiserver.jsonio import decode_body, decode_json, media_type
from agentops.local.apiserver.resources import Resource
from agentops.local.apiserver.routing import Route
from agentops.local.apiserver.scale import scale_of, write_scale
from agentops.values.clock import rfc3339

if TYPE_CHECKING:
    from agentops.local.apiserver.server import ApiServer

Object = dict[str, Any]

_NO_DEBUG = (
    "this development plane runs no ephemeral containers; use kubectl exec, or kubectl debug --copy-to for a copy of "
    "the pod with one more container"
)


class Subresources:
    """Serves what the resource says it has; anything else is no such path."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def serve(self, request: Request, resource: Resource, route: Route, about: Attributes, user: User) -> Answer:
        """Raises ApiFailure, PathNotFound."""
        name = route.subresource
        if name == "ephemeralcontainers" and resource.plural == "pods" and about.verb != "get":
            raise errors.ApiFailure(501, "NotImplemented", _NO_DEBUG)
        if name not in resource.subresources or (resource.kind.namespaced and not route.namespace):
            raise errors.PathNotFound
        server = self._server
        verb = about.verb
        match name:
            case "status" | "resize":
                if verb == "get":
                    return server.get_object(request, resource, route)
                if verb == "update":
                    return server.update_sub(request, resource, route, user, name)
                if verb == "patch":
                    return server.patch_sub(request, resource, route, user, name)
            case "finalize" if verb == "update":
                return server.update_sub(request, resource, route, user, name)
            case "scale":
                return self._scale(request, resource, route, verb, user)
            case "binding" if verb == "create":
                return self._bind(request, resource, route, user)
            case "eviction" if verb == "create":
                return evict(server, request, resource, route, user)
            case "token" if verb == "create":
                return self._token(request, resource, route)
            case "log" if verb == "get":
                return await server.door.logs(request, route.namespace, route.name)
            case "exec" | "attach":
                return server.door.exec(request, route.namespace, route.name, attach=name == "attach")
            case "proxy":
                if resource.plural == "pods":
                    return await server.door.proxy_pod(request, route.namespace, route.name, route.rest)
                return await server.door.proxy_service(request, route.namespace, route.name, route.rest)
            case "portforward":
                return server.door.port_forward(request, route.namespace, route.name)
        raise errors.method_not_allowed()

    def _scale(self, request: Request, resource: Resource, route: Route, verb: str, user: User) -> Answer:
        server = self._server
        if verb == "get":
            entry = server.reader.get(resource, route.namespace, route.name)
            return json_response(scale_of(resource, server.writer.served(resource, entry)))
        if verb == "update":
            body = decode_body(request.body, request.header("content-type"))
        elif verb == "patch":
            kind = media_type(request.header("content-type"))
            if kind not in (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH):
                raise errors.unsupported_media_type((JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH))
            body = decode_json(request.body)
        else:
            raise errors.method_not_allowed()

        def change(live: Object) -> Object:
            scale = scale_of(resource, live)
            if verb == "update":
                scale = body
            else:
                version = scale["metadata"].pop("resourceVersion", None)
                try:
                    if kind == JSON_PATCH:
                        scale = json_patch(
                            {**scale, "metadata": {**scale["metadata"], "resourceVersion": version}}, body
                        )
                    else:
                        scale = merge_patch(scale, body)
                except PatchError as error:
                    raise errors.bad_request(f"error applying patch: {error}") from error
                if kind == JSON_PATCH and scale["metadata"].get("resourceVersion") == version:
                    scale["metadata"].pop("resourceVersion")
            return write_scale(resource, live, scale)

        options = server.write_options(request, user, "scale")
        obj = server.writer.update(resource, route.namespace, route.name, change, options)
        return json_response(scale_of(resource, obj))

    def _bind(self, request: Request, resource: Resource, route: Route, user: User) -> Answer:
        body = decode_body(request.body, request.header("content-type"))
        reference = body.get("target") if isinstance(body, dict) else None
        target = reference.get("name") if isinstance(reference, dict) else None
        if not target or not isinstance(target, str):
            found = [errors.required("target.name")]
            raise errors.invalid("", "Binding", route.name, found)
        now = rfc3339(self._server.clock.now())

        def change(pod: Object) -> Object:
            meta, spec = pod["metadata"], pod["spec"]
            if meta.get("deletionTimestamp"):
                raise errors.conflict(
                    "", "pods/binding", route.name, f"pod {route.name} is being deleted, cannot be assigned to a host"
                )
            if spec.get("nodeName"):
                raise errors.conflict(
                    "", "pods/binding", route.name, f'pod {route.name} is already assigned to node "{spec["nodeName"]}"'
                )
            spec["nodeName"] = target
            for name, value in ((body.get("metadata") or {}).get("annotations") or {}).items():
                meta.setdefault("annotations", {})[name] = value
            conditions = [
                c for c in (pod.get("status") or {}).get("conditions") or () if c.get("type") != "PodScheduled"
            ]
            conditions.append(
                {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
            )
            pod.setdefault("status", {})["conditions"] = conditions
            meta.pop("resourceVersion", None)
            return pod

        options = self._server.write_options(request, user, "binding")
        self._server.writer.update_whole(resource, route.namespace, route.name, change, options)
        return json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201
        )

    def _token(self, request: Request, resource: Resource, route: Route) -> Answer:
        server = self._server
        body = decode_body(request.body, request.header("content-type"))
        if not isinstance(body, dict):
            raise errors.bad_request("the TokenRequest must be an object")
        account = server.reader.get(resource, route.namespace, route.name).obj()
        spec = body.get("spec") or {}
        if not isinstance(spec, dict) or not isinstance(spec.get("boundObjectRef") or {}, dict):
            raise errors.bad_request("TokenRequest cannot be handled: spec and spec.boundObjectRef must be objects")
        seconds = spec.get("expirationSeconds")
        seconds = 3600 if seconds is None else seconds
        if not isinstance(seconds, int) or seconds < 600:
            found = [
                errors.invalid_value(
                    "spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"
                )
            ]
            raise errors.invalid("authentication.k8s.io", "TokenRequest", route.name, found)
        bound = spec.get("boundObjectRef")
        if bound:
            bound = self._bound(bound, route, account)
        audiences = list(spec.get("audiences") or ()) or [AUDIENCE]
        token, expires = server.tokens.issue(
            route.namespace, account, audiences=audiences, seconds=seconds, bound=bound,
            token_id=f"{server.rng.getrandbits(128):032x}",
        )  # fmt: skip
        answer = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {
                "name": route.name,
                "namespace": route.namespace,
                "creationTimestamp": rfc3339(server.clock.now()),
            },
            "spec": {
                "audiences": audiences,
                "expirationSeconds": seconds,
                "boundObjectRef": spec.get("boundObjectRef"),
            },
            "status": {"token": token, "expirationTimestamp": rfc3339(datetime.fromtimestamp(expires, UTC))},
        }
        return json_response(answer, 201)

    def _bound(self, bound: Object, route: Route, account: Object) -> Object:
        kinds = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}
        plural = kinds.get(str(bound.get("kind")))
        if plural is None:
            raise errors.bad_request(f"cannot bind token to object of type {bound.get('kind')}")
        entry = self._server.store.get(plural, "" if plural == "nodes" else route.namespace, str(bound.get("name", "")))
        if entry is None:
            raise errors.not_found("", plural, str(bound.get("name", "")))
        live = entry.obj()
        if bound.get("uid") and bound["uid"] != live["metadata"]["uid"]:
            why = f"the UID in the bound object reference ({bound['uid']}) does not match the UID in record"
            raise errors.conflict("", plural, str(bound["name"]), why)
        if plural == "pods" and (live.get("spec") or {}).get("serviceAccountName") != route.name:
            account_name = account["metadata"]["name"]
            raise errors.bad_request(
                f"cannot bind token for serviceaccount {account_name!r} to pod running with different "
                f"serviceaccount name."
            )
        return {"kind": bound["kind"], "name": bound["name"], "uid": live["metadata"]["uid"]}
