"""Cells of the built-in kinds, as kubectl users know them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from agentops.values.clock import parse_rfc3339
from agentops.values.duration import human_duration
from agentops.values.quantity import format_quantity, parse_quantity
from agentops.values.selector import LabelSelector, SelectorError

Object = dict[str, Any]

NONE = "<none>"
UNKNOWN = "<unknown>"


@frozen(slots=True)
class Printer:
    """Columns as (name, priority) and the function from object and time to cells."""

    columns: tuple[tuple[str, int], ...]
    cells: Callable[[Object, datetime], list[Any]]
    integers: frozenset[str] = field(factory=frozenset)


def age(stamp: Any, now: datetime) -> str:
    """`9m12s` since an RFC 3339 time."""
    if not stamp:
        return UNKNOWN
    try:
        return human_duration((now - parse_rfc3339(str(stamp))).total_seconds())
    except ValueError:
        return UNKNOWN


def _meta(obj: Object) -> Object:
    found: Object = obj.get("metadata") or {}
    return found


def _spec(obj: Object) -> Object:
    found: Object = obj.get("spec") or {}
    return found


def _status(obj: Object) -> Object:
    found: Object = obj.get("status") or {}
    return found


def _name(obj: Object) -> str:
    return str(_meta(obj).get("name", ""))


def _age(obj: Object, now: datetime) -> str:
    return age(_meta(obj).get("creationTimestamp"), now)


def _containers(spec: Object) -> tuple[str, str]:
    containers = ((spec.get("template") or {}).get("spec") or spec).get("containers") or []
    return ",".join(c.get("name", "") for c in containers), ",".join(c.get("image", "") for c in containers)


def _selector(selector: Any) -> str:
    try:
        return str(LabelSelector.from_dict(selector)) or NONE
    except SelectorError:
        return "<invalid>"


def pod_status(pod: Object) -> tuple[int, int, str, int, str]:
    """Ready containers, all containers, the Status word, restarts, and when the last one was."""
    spec, status = _spec(pod), _status(pod)
    reason = status.get("reason") or status.get("phase") or ""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    restarts, last_restart = 0, ""
    sidecars = {c.get("name") for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    total = len(spec.get("containers") or ()) + len(sidecars)
    ready = 0
    initializing = False
    init = status.get("initContainerStatuses") or []
    for index, container in enumerate(init):
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        restarts += container.get("restartCount", 0)
        last_restart = max(last_restart, _finished(container))
        if container.get("name") in sidecars:
            if container.get("ready"):
                ready += 1
            if container.get("started"):
                continue
        if ended is not None and ended.get("exitCode") == 0:
            continue
        if ended is not None:
            if ended.get("reason"):
                reason = f"Init:{ended['reason']}"
            elif ended.get("signal"):
                reason = f"Init:Signal:{ended['signal']}"
            else:
                reason = f"Init:ExitCode:{ended.get('exitCode')}"
        elif waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
            reason = f"Init:{waiting['reason']}"
        else:
            reason = f"Init:{index}/{len(spec.get('initContainers') or ())}"
        initializing = True
        break
    if not initializing:
        restarts = sum(c.get("restartCount", 0) for c in init if c.get("name") in sidecars)
        running = False
        for container in reversed(status.get("containerStatuses") or []):
            state = container.get("state") or {}
            ended, waiting = state.get("terminated"), state.get("waiting")
            restarts += container.get("restartCount", 0)
            last_restart = max(last_restart, _finished(container))
            if waiting is not None and waiting.get("reason"):
                reason = waiting["reason"]
            elif ended is not None and ended.get("reason"):
                reason = ended["reason"]
            elif ended is not None:
                reason = f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode')}"
            elif container.get("ready") and state.get("running") is not None:
                running = True
                ready += 1
        if reason == "Completed" and running:
            conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or ()}
            reason = "Running" if conditions.get("Ready") == "True" else "NotReady"
    if _meta(pod).get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            reason = "Terminating"
    return ready, total, reason, restarts, last_restart


def _finished(container: Object) -> str:
    return str(((container.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or "")


def _pod(obj: Object, now: datetime) -> list[Any]:
    ready, total, reason, restarts, last = pod_status(obj)
    text: Any = str(restarts)
    if restarts and last:
        text = f"{restarts} ({age(last, now)} ago)"
    status, spec = _status(obj), _spec(obj)
    ips = status.get("podIPs") or []
    gates = spec.get("readinessGates") or []
    conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or ()}
    passed = sum(conditions.get(g.get("conditionType")) == "True" for g in gates)
    return [
        _name(obj), f"{ready}/{total}", reason, text, _age(obj, now),
        (ips[0].get("ip") if ips else status.get("podIP")) or NONE, spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE, f"{passed}/{len(gates)}" if gates else NONE,
    ]  # fmt: skip


def _service(obj: Object, now: datetime) -> list[Any]:
    spec = _spec(obj)
    kind = spec.get("type", "ClusterIP")
    ips = [i.get("ip") or i.get("hostname") for i in (_status(obj).get("loadBalancer") or {}).get("ingress") or ()]
    ips += spec.get("externalIPs") or []
    if kind == "ExternalName":
        external = spec.get("externalName") or NONE
    elif ips:
        external = ",".join(ips)
    else:
        external = "<pending>" if kind == "LoadBalancer" else NONE
    ports = ",".join(
        f"{p.get('port')}:{p['nodePort']}/{p.get('protocol', 'TCP')}" if p.get("nodePort")
        else f"{p.get('port')}/{p.get('protocol', 'TCP')}"
        for p in spec.get("ports") or ()
    )  # fmt: skip
    selector = ",".join(f"{k}={v}" for k, v in sorted((spec.get("selector") or {}).items()))
    cluster_ip = spec.get("clusterIP") or NONE
    return [_name(obj), kind, cluster_ip, external, ports or NONE, _age(obj, now), selector or NONE]


def _namespace(obj: Object, now: datetime) -> list[Any]:
    return [_name(obj), _status(obj).get("phase", ""), _age(obj, now)]


def _node(obj: Object, now: datetime) -> list[Any]:
    status = _status(obj)
    words = ["Ready" if c.get("status") == "True" else "NotReady"
             for c in status.get("conditions") or () if c.get("type") == "Ready"] or ["Unknown"]  # fmt: skip
    if _spec(obj).get("unschedulable"):
        words.append("SchedulingDisabled")
    labels = _meta(obj).get("labels") or {}
    roles = [
        k.removeprefix("node-role.kubernetes.io/") for k in sorted(labels) if k.startswith("node-role.kubernetes.io/")
    ]
    addresses = {a.get("type"): a.get("address") for a in reversed(status.get("addresses") or [])}
    info = status.get("nodeInfo") or {}
    return [
        _name(obj), ",".join(words), ",".join(roles) or NONE, _age(obj, now), info.get("kubeletVersion", ""),
        addresses.get("InternalIP") or NONE, addresses.get("ExternalIP") or NONE, info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN, info.get("containerRuntimeVersion") or UNKNOWN,
    ]  # fmt: skip


def _config_map(obj: Object, now: datetime) -> list[Any]:
    count = len(obj.get("data") or {}) + len(obj.get("binaryData") or {})
    return [_name(obj), count, _age(obj, now)]


def _secret(obj: Object, now: datetime) -> list[Any]:
    return [_name(obj), obj.get("type", ""), len(obj.get("data") or {}), _age(obj, now)]


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(modes: Any) -> str:
    return ",".join(_MODES.get(m, m) for m in modes or ())


def _pvc(obj: Object, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    phase = "Terminating" if _meta(obj).get("deletionTimestamp") else status.get("phase", "")
    bound = bool(spec.get("volumeName"))
    capacity = (status.get("capacity") or {}).get("storage", "") if bound else ""
    return [
        _name(obj), phase, spec.get("volumeName", ""), capacity, _modes(status.get("accessModes")) if bound else "",
        spec.get("storageClassName") or "", spec.get("volumeAttributesClassName") or "<unset>", _age(obj, now),
        spec.get("volumeMode") or "<unset>",
    ]  # fmt: skip


def _pv(obj: Object, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    claim = spec.get("claimRef") or {}
    return [
        _name(obj), (spec.get("capacity") or {}).get("storage", ""), _modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        "Terminating" if _meta(obj).get("deletionTimestamp") else status.get("phase", ""),
        f"{claim.get('namespace')}/{claim.get('name')}" if claim else "", spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or "<unset>", status.get("reason", ""), _age(obj, now),
        spec.get("volumeMode") or "<unset>",
    ]  # fmt: skip


def _event(obj: Object, now: datetime) -> list[Any]:
    involved = obj.get("involvedObject") or obj.get("regarding") or {}
    series = obj.get("series") or {}
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or first
    count = series.get("count") or obj.get("count") or obj.get("deprecatedCount") or 1
    component = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController") or ""
    shown = f"{component}, {source['host']}" if source.get("host") else component
    subject = f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"
    message = str(obj.get("message") or obj.get("note") or "").strip()
    return [
        age(last, now), obj.get("type", ""), obj.get("reason", ""), subject, involved.get("fieldPath", ""), shown,
        message, age(first, now), count, _name(obj),
    ]  # fmt: skip


def _endpoints(obj: Object, now: datetime) -> list[Any]:
    shown: list[str] = []
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or [{}]:
            shown += [f"{a.get('ip')}:{port['port']}" if port.get("port") else str(a.get("ip"))
                      for a in subset.get("addresses") or ()]  # fmt: skip
    text = ",".join(shown[:3]) + (f" + {len(shown) - 3} more..." if len(shown) > 3 else "")
    return [_name(obj), text or NONE, _age(obj, now)]


def _endpoint_slice(obj: Object, now: datetime) -> list[Any]:
    ports = [str(p.get("port")) for p in obj.get("ports") or () if p.get("port") is not None]
    ips = [a for e in obj.get("endpoints") or () for a in e.get("addresses") or ()]

    def short(items: list[str], empty: str) -> str:
        if not items:
            return empty
        return ",".join(items[:3]) + (f" + {len(items) - 3} more..." if len(items) > 3 else "")

    return [_name(obj), obj.get("addressType", ""), short(ports, "<unset>"), short(ips, "<unset>"), _age(obj, now)]


def _deployment(obj: Object, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    names, images = _containers(spec)
    return [
        _name(obj), f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}", status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0), _age(obj, now), names, images, _selector(spec.get("selector")),
    ]  # fmt: skip


def _replica_set(obj: Object, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    names, images = _containers(spec)
    return [
        _name(obj), spec.get("replicas", 0), status.get("replicas", 0), status.get("readyReplicas", 0), _age(obj, now),
        names, images, _selector(spec.get("selector")),
    ]  # fmt: skip


def _replication_controller(obj: Object, now: datetime) -> list[Any]:
    return _replica_set({**obj, "spec": {**_spec(obj), "selector": {"matchLabels": _spec(obj).get("selector")}}}, now)


def _stateful_set(obj: Object, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    names, images = _containers(spec)
    return [_name(obj), f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}", _age(obj, now), names, images]


def _daemon_set(obj: Object, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    names, images = _containers(spec)
    nodes = ((spec.get("template") or {}).get("spec") or {}).get("nodeSelector") or {}
    return [
        _name(obj), *(status.get(k, 0) for k in ("desiredNumberScheduled", "currentNumberScheduled", "numberReady",
                                                "updatedNumberScheduled", "numberAvailable")),
        ",".join(f"{k}={v}" for k, v in sorted(nodes.items())) or NONE, _age(obj, now), names, images,
        _selector(spec.get("selector")),
    ]  # fmt: skip


def _job(obj: Object, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    names, images = _containers(spec)
    conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or ()}
    word = "Running"
    for kind, shown in (("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended"),
                        ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet")):  # fmt: skip
        if conditions.get(kind) == "True":
            word = shown
            break
    else:
        if _meta(obj).get("deletionTimestamp"):
            word = "Terminating"
    done = status.get("succeeded", 0)
    if spec.get("completions") is not None:
        completions = f"{done}/{spec['completions']}"
    else:
        parallel = spec.get("parallelism") or 0
        completions = f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"
    duration = ""
    if status.get("startTime"):
        end = parse_rfc3339(status["completionTime"]) if status.get("completionTime") else now
        duration = human_duration((end - parse_rfc3339(status["startTime"])).total_seconds())
    return [_name(obj), word, completions, duration, _age(obj, now), names, images, _selector(spec.get("selector"))]


def _cron_job(obj: Object, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    names, images = _containers((spec.get("jobTemplate") or {}).get("spec") or {})
    last = status.get("lastScheduleTime")
    return [
        _name(obj), spec.get("schedule", ""), spec.get("timeZone") or NONE, "True" if spec.get("suspend") else "False",
        len(status.get("active") or ()), age(last, now) if last else NONE, _age(obj, now), names, images, NONE,
    ]  # fmt: skip


def _ingress(obj: Object, now: datetime) -> list[Any]:
    spec = _spec(obj)
    hosts = [r.get("host") for r in spec.get("rules") or () if r.get("host")]
    address = ",".join(i.get("ip") or i.get("hostname", "") for i in
                       (_status(obj).get("loadBalancer") or {}).get("ingress") or ())  # fmt: skip
    ports = "80, 443" if spec.get("tls") else "80"
    return [_name(obj), spec.get("ingressClassName") or NONE, ",".join(hosts) or "*", address, ports, _age(obj, now)]


def _bindings(obj: Object, now: datetime) -> list[Any]:
    role = obj.get("roleRef") or {}
    by: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        name = subject.get("name", "")
        if subject.get("kind") == "ServiceAccount":
            name = f"{subject.get('namespace', '')}/{name}"
        by.setdefault(subject.get("kind", ""), []).append(name)
    return [
        _name(obj), f"{role.get('kind')}/{role.get('name')}", _age(obj, now),
        *(", ".join(by[k]) for k in ("User", "Group", "ServiceAccount")),
    ]  # fmt: skip


def _lease(obj: Object, now: datetime) -> list[Any]:
    return [_name(obj), _spec(obj).get("holderIdentity") or "", _age(obj, now)]


def _quota(obj: Object, now: datetime) -> list[Any]:
    hard, used = _status(obj).get("hard") or _spec(obj).get("hard") or {}, _status(obj).get("used") or {}
    request = ", ".join(f"{k}: {used.get(k, '0')}/{v}" for k, v in sorted(hard.items()) if not k.startswith("limits."))
    limit = ", ".join(f"{k}: {used.get(k, '0')}/{v}" for k, v in sorted(hard.items()) if k.startswith("limits."))
    return [_name(obj), request, limit, _age(obj, now)]


def _pdb(obj: Object, now: datetime) -> list[Any]:
    spec = _spec(obj)

    def shown(value: Any) -> str:
        return "N/A" if value is None else str(value)

    allowed = _status(obj).get("disruptionsAllowed", 0)
    return [_name(obj), shown(spec.get("minAvailable")), shown(spec.get("maxUnavailable")), allowed, _age(obj, now)]


def _storage_class(obj: Object, now: datetime) -> list[Any]:
    annotations = _meta(obj).get("annotations") or {}
    default = annotations.get("storageclass.kubernetes.io/is-default-class") == "true"
    return [
        _name(obj) + (" (default)" if default else ""), obj.get("provisioner", ""), obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", ""), bool(obj.get("allowVolumeExpansion")), _age(obj, now),
    ]  # fmt: skip


def _created(obj: Object, now: datetime) -> list[Any]:
    return [_name(obj), _meta(obj).get("creationTimestamp")]


def _plain(obj: Object, now: datetime) -> list[Any]:
    return [_name(obj), _age(obj, now)]


def _network_policy(obj: Object, now: datetime) -> list[Any]:
    return [_name(obj), _selector(_spec(obj).get("podSelector")), _age(obj, now)]


def _priority_class(obj: Object, now: datetime) -> list[Any]:
    policy = obj.get("preemptionPolicy", "PreemptLowerPriority")
    return [_name(obj), obj.get("value", 0), bool(obj.get("globalDefault")), _age(obj, now), policy]


def _pod_metrics(obj: Object, now: datetime) -> list[Any]:
    return _used(obj, [container["usage"] for container in obj["containers"]])


def _node_metrics(obj: Object, now: datetime) -> list[Any]:
    return _used(obj, [obj["usage"]])


def _used(obj: Object, usages: list[Object]) -> list[Any]:
    cpu = sum((parse_quantity(usage["cpu"]) for usage in usages), Decimal())
    memory = sum((parse_quantity(usage["memory"]) for usage in usages), Decimal())
    return [_name(obj), format_quantity(cpu), format_quantity(memory, binary=True), obj["window"]]


def _columns(text: str) -> tuple[tuple[str, int], ...]:
    """`Name, Ready, IP:1` as (name, priority) pairs."""
    found = []
    for part in text.split(","):
        name, _, priority = part.strip().partition(":")
        found.append((name, int(priority or 0)))
    return tuple(found)


def _printer(columns: str, cells: Callable[[Object, datetime], list[Any]], integers: str = "") -> Printer:
    return Printer(_columns(columns), cells, frozenset(i.strip() for i in integers.split(",") if i))


_EVENTS = "Last Seen, Type, Reason, Object, Subobject:1, Source:1, Message, First Seen:1, Count:1, Name:1"

PRINTERS: dict[str, Printer] = {
    "": _printer("Name, Age", _plain),
    "pods": _printer("Name, Ready, Status, Restarts, Age, IP:1, Node:1, Nominated Node:1, Readiness Gates:1", _pod),
    "services": _printer("Name, Type, Cluster-IP, External-IP, Port(s), Age, Selector:1", _service),
    "namespaces": _printer("Name, Status, Age", _namespace),
    "nodes": _printer(
        "Name, Status, Roles, Age, Version, Internal-IP:1, External-IP:1, OS-Image:1, Kernel-Version:1, "
        "Container-Runtime:1", _node),
    "configmaps": _printer("Name, Data, Age", _config_map, "Data"),
    "secrets": _printer("Name, Type, Data, Age", _secret, "Data"),
    "persistentvolumeclaims": _printer(
        "Name, Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age, VolumeMode:1", _pvc),
    "persistentvolumes": _printer(
        "Name, Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, "
        "Reason, Age, "
        "VolumeMode:1", _pv),
    "events": _printer(_EVENTS, _event, "Count"),
    "events.events.k8s.io": _printer(_EVENTS, _event, "Count"),
    "endpoints": _printer("Name, Endpoints, Age", _endpoints),
    "endpointslices.discovery.k8s.io": _printer("Name, AddressType, Ports, Endpoints, Age", _endpoint_slice),
    "deployments.apps": _printer(
        "Name, Ready, Up-to-date, Available, Age, Containers:1, Images:1, Selector:1", _deployment,
        "Up-to-date,Available"),
    "replicasets.apps": _printer(
        "Name, Desired, Current, Ready, Age, Containers:1, Images:1, Selector:1", _replica_set,
        "Desired,Current,Ready"),
    "replicationcontrollers": _printer(
        "Name, Desired, Current, Ready, Age, Containers:1, Images:1, Selector:1", _replication_controller,
        "Desired,Current,Ready"),
    "statefulsets.apps": _printer("Name, Ready, Age, Containers:1, Images:1", _stateful_set),
    "daemonsets.apps": _printer(
        "Name, Desired, Current, Ready, Up-to-date, Available, Node Selector, Age, Containers:1, Images:1, Selector:1",
        _daemon_set, "Desired,Current,Ready,Up-to-date,Available"),
    "jobs.batch": _printer("Name, Status, Completions, Duration, Age, Containers:1, Images:1, Selector:1", _job),
    "cronjobs.batch": _printer(
        "Name, Schedule, Timezone, Suspend, Active, Last Schedule, Age, Containers:1, Images:1, Selector:1", _cron_job,
        "Active"),
    "networkpolicies.networking.k8s.io": _printer("Name, Pod-Selector, Age", _network_policy),
    "ingresses.networking.k8s.io": _printer("Name, Class, Hosts, Address, Ports, Age", _ingress),
    "roles.rbac.authorization.k8s.io": _printer("Name, Created At", _created),
    "clusterroles.rbac.authorization.k8s.io": _printer("Name, Created At", _created),
    "rolebindings.rbac.authorization.k8s.io": _printer(
        "Name, Role, Age, Users:1, Groups:1, ServiceAccounts:1", _bindings),
    "clusterrolebindings.rbac.authorization.k8s.io": _printer(
        "Name, Role, Age, Users:1, Groups:1, ServiceAccounts:1", _bindings),
    "customresourcedefinitions.apiextensions.k8s.io": _printer("Name, Created At", _created),
    "leases.coordination.k8s.io": _printer("Name, Holder, Age", _lease),
    "resourcequotas": _printer("Name, Request, Limit, Age", _quota),
    "poddisruptionbudgets.policy": _printer(
        "Name, Min Available, Max Unavailable, Allowed Disruptions, Age", _pdb, "Allowed Disruptions"),
    "storageclasses.storage.k8s.io": _printer(
        "Name, Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age", _storage_class),
    "priorityclasses.scheduling.k8s.io": _printer(
        "Name, Value, Global-Default, Age, PreemptionPolicy:1", _priority_class, "Value"),
    "pods.metrics.k8s.io": _printer("Name, cpu, memory, Window", _pod_metrics),
    "nodes.metrics.k8s.io": _printer("Name, cpu, memory, Window", _node_metrics),
}  # fmt: skip
