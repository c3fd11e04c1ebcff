"""Namespaces, config, services, storage, service accounts, nodes and events."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any, ClassVar

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.limitranges import check_claim
from agentops.local.apiserver.pod_security import label_errors
from agentops.local.apiserver.strategies.base import (
    Context,
    Strategy,
    dns1035_name,
    immutable,
    label_name,
)
from agentops.local.apiserver.strategies.networking import validate_network_policy
from agentops.local.apiserver.strategies.nodeports import fill_node_ports, health_check_changed, node_port_errors
from agentops.local.apiserver.strategies.placement import validate_label_selector
from agentops.local.apiserver.strategies.secretdata import validate_secret
from agentops.local.apiserver.strategies.services import (
    seen_from_outside,
    validate_endpoint_slice,
    validate_endpoints,
    validate_service,
)
from agentops.local.apiserver.strategies.storage import validate_claim, validate_volume

Object = dict[str, Any]


class NamespaceStrategy(Strategy):
    has_status = True
    delete_returns_object = True
    check_name = staticmethod(label_name)
    fields: ClassVar[dict[str, str]] = {"status.phase": "status.phase", "name": "metadata.name"}

    def default(self, obj: Object) -> None:
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return label_errors(obj["metadata"].get("labels") or {})

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        obj["status"] = {"phase": "Active"}
        finalizers = (obj.get("spec") or {}).get("finalizers") or []
        obj["spec"] = {"finalizers": finalizers if "kubernetes" in finalizers else [*finalizers, "kubernetes"]}

    def prepare_update(self, ctx: Context, new: Object, old: Object) -> None:
        if ctx.subresource != "finalize":
            new["spec"] = old.get("spec") or {}


class ConfigMapStrategy(Strategy):
    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        out = []
        for field in ("data", "binaryData"):
            out += [
                errors.invalid_value(f"{field}[{key}]", key, _KEY_TEXT)
                for key in obj.get(field) or {}
                if not _config_key(key)
            ]
        out += [
            errors.invalid_value(f"data[{key}]", key, "duplicate of key present in binaryData")
            for key in obj.get("data") or {}
            if key in (obj.get("binaryData") or {})
        ]
        size = sum(len(v) for v in (obj.get("data") or {}).values()) + sum(
            len(v) * 3 // 4 for v in (obj.get("binaryData") or {}).values()
        )
        if size > 1 << 20:
            out.append(FieldError(errors.TOO_LONG, "", "may not be more than 1048576 bytes"))
        return out

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        return _immutable_data(new, old, ("data", "binaryData"))


_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)


def _config_key(key: str) -> bool:
    return (
        0 < len(key) <= 253 and all(c.isascii() and (c.isalnum() or c in "-._") for c in key) and key not in (".", "..")
    )


def _immutable_data(new: Object, old: Object, fields: tuple[str, ...]) -> list[FieldError]:
    if not old.get("immutable"):
        return []
    out = []
    if not new.get("immutable"):
        out.append(errors.forbidden_field("immutable", "field is immutable when `immutable` is set"))
    out += [
        errors.forbidden_field(field, "field is immutable when `immutable` is set")
        for field in fields
        if (new.get(field) or {}) != (old.get(field) or {})
    ]
    return out


class SecretStrategy(Strategy):
    fields: ClassVar[dict[str, str]] = {"type": "type"}

    def default(self, obj: Object) -> None:
        plain = obj.pop("stringData", None)
        if plain:
            data = obj.setdefault("data", {}) or {}
            obj["data"] = {**data, **{k: base64.b64encode(str(v).encode()).decode() for k, v in plain.items()}}
        if not obj.get("type"):
            obj["type"] = "Opaque"

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        out = [
            errors.invalid_value(f"data[{key}]", key, _KEY_TEXT)
            for key in obj.get("data") or {}
            if not _config_key(key)
        ]
        if sum(len(v) * 3 // 4 for v in (obj.get("data") or {}).values()) > 1 << 20:
            out.append(FieldError(errors.TOO_LONG, "data", "may not be more than 1048576 bytes"))
        out += validate_secret(obj)
        return out

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        return [*immutable(new, old, "type"), *_immutable_data(new, old, ("data",))]


class ServiceStrategy(Strategy):
    has_status = True
    delete_returns_object = True
    check_name = staticmethod(dns1035_name)
    fields: ClassVar[dict[str, str]] = {"spec.clusterIP": "spec.clusterIP", "spec.type": "spec.type"}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if spec is None:
            spec = obj["spec"] = {}
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        if spec["type"] != "ExternalName":
            spec.setdefault("internalTrafficPolicy", "Cluster")
        if spec["sessionAffinity"] == "ClientIP" and spec.get("sessionAffinityConfig") is None:
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": 10800}}
        if seen_from_outside(spec):
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if spec["type"] == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)
        for port in spec.get("ports") or ():
            port.setdefault("protocol", "TCP")
            if port.get("targetPort") in (None, "", 0):
                port["targetPort"] = port.get("port")
        obj.setdefault("status", {}).setdefault("loadBalancer", {})

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        spec = obj["spec"]
        obj["status"] = {"loadBalancer": {}}
        if spec["type"] == "ExternalName":
            return
        if not spec.get("clusterIP") and spec.get("clusterIPs"):
            spec["clusterIP"] = spec["clusterIPs"][0]
        if not spec.get("clusterIP"):
            spec["clusterIP"] = allocate_ip(ctx)
        self._families(spec)
        fill_node_ports(ctx, obj, None)

    def _families(self, spec: Object) -> None:
        spec["clusterIPs"] = [spec["clusterIP"]]
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")

    def prepare_update(self, ctx: Context, new: Object, old: Object) -> None:
        spec, before = new["spec"], old.get("spec") or {}
        fill_node_ports(ctx, new, old)
        if not seen_from_outside(spec) and spec.get("externalTrafficPolicy") == before.get("externalTrafficPolicy"):
            spec.pop("externalTrafficPolicy", None)  # of the type it had before
        if spec["type"] == "ExternalName":
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if spec.get(field) == before.get(field):
                    spec.pop(field, None)
            return
        if not spec.get("clusterIP"):
            spec["clusterIP"] = before.get("clusterIP") or allocate_ip(ctx)
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if field in before:
                spec.setdefault(field, before[field])
        self._families(spec)

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        out: list[FieldError] = []
        spec = obj["spec"]
        if spec["type"] not in ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"):
            allowed = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
            out.append(errors.not_supported("spec.type", spec["type"], allowed))
        ports = spec.get("ports") or []
        if not ports and spec.get("clusterIP") != "None" and spec["type"] != "ExternalName":
            out.append(errors.required("spec.ports"))
        if spec["type"] == "ExternalName" and not spec.get("externalName"):
            out.append(errors.required("spec.externalName"))
        names: set[str] = set()
        pairs: set[tuple[Any, Any]] = set()
        for index, port in enumerate(ports):
            at = f"spec.ports[{index}]"
            number = port.get("port")
            if not isinstance(number, int) or not 0 < number < 65536:
                out.append(errors.invalid_value(f"{at}.port", number, "must be between 1 and 65535, inclusive"))
            name = port.get("name")
            if not name and len(ports) > 1:
                out.append(errors.required(f"{at}.name"))
            elif name:
                problem = label_name(name)
                if problem:
                    out.append(errors.invalid_value(f"{at}.name", name, problem))
                elif name in names:
                    out.append(errors.duplicate(f"{at}.name", name))
                names.add(name)
            pair = (port.get("protocol"), number)
            if pair in pairs:
                out.append(errors.duplicate(at, {"protocol": pair[0], "port": pair[1]}))
            pairs.add(pair)
        out.extend(validate_service(spec))
        address = spec.get("clusterIP")
        if address and address != "None" and spec["type"] != "ExternalName":
            out += self._check_ip(ctx, obj, address)
        return out + node_port_errors(ctx, obj)

    def _check_ip(self, ctx: Context, obj: Object, address: str) -> list[FieldError]:
        network = ipaddress.ip_network(ctx.service_cidr)
        try:
            inside = ipaddress.ip_address(address) in network
        except ValueError:
            return [errors.invalid_value("spec.clusterIPs[0]", address, "must be a valid IP address, (e.g. 10.9.8.7)")]
        if not inside:
            detail = f"failed to allocate IP {address}: the provided IP ({address}) is not in the valid range"
            return [errors.invalid_value("spec.clusterIPs", [address], f"{detail} of {network}")]
        for entry in ctx.store.list("services"):
            same = entry.namespace == obj["metadata"].get("namespace") and entry.name == obj["metadata"].get("name")
            if not same and (entry.obj().get("spec") or {}).get("clusterIP") == address:
                detail = f"failed to allocate IP {address}: provided IP is already allocated"
                return [errors.invalid_value("spec.clusterIPs", [address], detail)]
        return []

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        spec, before = new["spec"], old.get("spec") or {}
        changed = before.get("clusterIP") and spec.get("clusterIP") != before["clusterIP"]
        if changed and "ExternalName" not in (spec["type"], before.get("type")):
            detail = "may not change once set"
            return [errors.invalid_value("spec.clusterIPs[0]", [spec.get("clusterIP")], detail)]
        return health_check_changed(new, old)


def allocate_ip(ctx: Context) -> str:
    """A free address of the service range, never the first (it is default/kubernetes). Raises ApiFailure."""
    network = ipaddress.ip_network(ctx.service_cidr)
    used = {(entry.obj().get("spec") or {}).get("clusterIP") for entry in ctx.store.list("services")}
    first = int(network.network_address) + 2
    last = int(network.broadcast_address) - 1
    start = ctx.rng.randrange(first, last)
    for offset in range(last - first):
        address = str(ipaddress.ip_address(first + (start - first + offset) % (last - first)))
        if address not in used:
            return address
    raise errors.internal(f"failed to allocate a serviceIP: range {network} is full")


class ServiceAccountStrategy(Strategy):
    delete_returns_object = True


class PersistentVolumeClaimStrategy(Strategy):
    has_status = True
    delete_returns_object = True

    def default(self, obj: Object) -> None:
        obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
        obj.setdefault("status", {}).setdefault("phase", "Pending")

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        obj["status"] = {"phase": "Pending"}
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if "kubernetes.io/pvc-protection" not in finalizers:
            finalizers.append("kubernetes.io/pvc-protection")
        if obj["spec"].get("storageClassName") is None:
            for entry in ctx.store.list("storageclasses.storage.k8s.io"):
                meta = entry.obj()["metadata"]
                if (meta.get("annotations") or {}).get("storageclass.kubernetes.io/is-default-class") == "true":
                    obj["spec"]["storageClassName"] = meta["name"]

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return list(validate_claim(obj["spec"]))

    def admit(self, ctx: Context, obj: Object) -> None:
        if refusal := check_claim(ctx.store, obj):
            raise refusal

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        def fixed(obj: Object) -> Object:
            spec = dict(obj["spec"])
            for key in ("resources", "volumeName", "volumeAttributesClassName"):
                spec.pop(key, None)
            if spec.get("storageClassName") is None:
                spec.pop("storageClassName", None)
            return spec

        before = old["spec"].get("volumeName")
        if fixed(new) != fixed(old) or (before and new["spec"].get("volumeName") != before):
            detail = (
                "spec is immutable after creation except resources.requests "
                "and volumeAttributesClassName for bound claims"
            )
            return [errors.forbidden_field("spec", detail)]
        return []


class PersistentVolumeStrategy(Strategy):
    has_status = True
    delete_returns_object = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("volumeMode", "Filesystem")
        spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
        obj.setdefault("status", {}).setdefault("phase", "Pending")

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        obj["status"] = {"phase": "Pending"}
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if "kubernetes.io/pv-protection" not in finalizers:
            finalizers.append("kubernetes.io/pv-protection")

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return list(validate_volume(obj["spec"]))


class StorageClassStrategy(Strategy):
    def default(self, obj: Object) -> None:
        obj.setdefault("reclaimPolicy", "Delete")
        obj.setdefault("volumeBindingMode", "Immediate")

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        return [e for field in ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode")
                for e in immutable(new, old, field)]  # fmt: skip


class NodeStrategy(Strategy):
    has_status = True
    fields: ClassVar[dict[str, str]] = {"spec.unschedulable": "spec.unschedulable"}

    def field_value(self, obj: Object, selector: str) -> str | None:
        value = super().field_value(obj, selector)
        return "false" if selector == "spec.unschedulable" and not value else value


class EventStrategy(Strategy):
    fields: ClassVar[dict[str, str]] = {
        **{f"involvedObject.{name}": f"involvedObject.{name}" for name in (
            "kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")},
        **{f"regarding.{name}": f"involvedObject.{name}" for name in (
            "kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")},
        "reason": "reason", "type": "type", "reportingComponent": "reportingComponent", "source": "source.component",
        "reportingController": "reportingComponent",
    }  # fmt: skip

    def field_value(self, obj: Object, selector: str) -> str | None:
        value = super().field_value(obj, selector)
        if selector == "source" and not value:
            return str(obj.get("reportingComponent") or "")
        return value

    def default(self, obj: Object) -> None:
        if obj.get("apiVersion") == "events.k8s.io/v1":
            return  # the translation to the stored form fills in what that form wants
        obj.setdefault("source", {})
        obj.setdefault("reportingComponent", (obj.get("source") or {}).get("component") or "")
        obj.setdefault("reportingInstance", "")
        obj.setdefault("firstTimestamp", None)
        obj.setdefault("lastTimestamp", None)
        obj.setdefault("eventTime", None)

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        involved = (obj.get("involvedObject") or obj.get("regarding") or {}).get("namespace") or ""
        namespace = obj["metadata"].get("namespace") or ""
        if involved and involved != namespace:
            return [errors.invalid_value("involvedObject.namespace", involved, "does not match event.namespace")]
        if not involved and namespace != "default" and namespace != "kube-system":
            detail = "does not match event.namespace"
            return [errors.invalid_value("involvedObject.namespace", involved, detail)]
        return []


class LeaseStrategy(Strategy):
    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        spec = obj.get("spec") or {}
        out = []
        if spec.get("leaseDurationSeconds") is not None and spec["leaseDurationSeconds"] <= 0:
            out.append(
                errors.invalid_value(
                    "spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0"
                )
            )
        if spec.get("leaseTransitions") is not None and spec["leaseTransitions"] < 0:
            out.append(
                errors.invalid_value(
                    "spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0"
                )
            )
        return out


class EndpointsStrategy(Strategy):
    def default(self, obj: Object) -> None:
        for subset in obj.get("subsets") or ():
            for port in subset.get("ports") or ():
                port.setdefault("protocol", "TCP")

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return list(validate_endpoints(obj.get("subsets") or ()))


class EndpointSliceStrategy(Strategy):
    def default(self, obj: Object) -> None:
        for port in obj.get("ports") or ():
            port.setdefault("protocol", "TCP")
            port.setdefault("name", "")

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return list(validate_endpoint_slice(obj))

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        return immutable(new, old, "addressType")


class NetworkPolicyStrategy(Strategy):
    has_generation = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("podSelector", {})
        if not spec.get("policyTypes"):
            spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
        for rule in [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]:
            for port in rule.get("ports") or ():
                port.setdefault("protocol", "TCP")

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        spec = obj["spec"]
        out = list(validate_label_selector(spec["podSelector"], "spec.podSelector"))
        for rules, peers in (("ingress", "from"), ("egress", "to")):
            for index, rule in enumerate(spec.get(rules) or ()):
                for number, peer in enumerate(rule.get(peers) or ()):
                    at = f"spec.{rules}[{index}].{peers}[{number}]"
                    for selector in ("podSelector", "namespaceSelector"):
                        out.extend(validate_label_selector(peer.get(selector), f"{at}.{selector}"))
        out.extend(validate_network_policy(spec))
        return out
