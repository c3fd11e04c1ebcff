"""Which controllers the plane runs, and what each is given."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from agentops.controller import Manager
from agentops.kube.kinds import REPLICATION_CONTROLLER
from agentops.local.controllers.accounttokens import AccountTokenController, Sign
from agentops.local.controllers.claims import add_shared_indices
from agentops.local.controllers.cronjob import CronJobController
from agentops.local.controllers.daemonset import DaemonSetController
from agentops.local.controllers.deployment import DeploymentController
from agentops.local.controllers.disruption import DisruptionController
from agentops.local.controllers.endpoints import EndpointsController
from agentops.local.controllers.garbagecollector import GarbageCollector
from agentops.local.controllers.job import JobController
from agentops.local.controllers.mirroring import MirroringController
from agentops.local.controllers.namespace import GRACE_S, NamespaceController
from agentops.local.controllers.persistentvolume import ClaimController, VolumeController
from agentops.local.controllers.replicaset import ReplicaSetController
from agentops.local.controllers.resourcequota import ResourceQuotaController
from agentops.local.controllers.serviceaccount import ServiceAccountController
from agentops.local.controllers.statefulset import StatefulSetController
from agentops.local.controllers.ttl import TtlController


@frozen(slots=True)
class ControllerOptions:
    """What the controllers need from their plane."""

    volumes_dir: Path
    """Where the directories of PersistentVolumes are made."""
    ca_pem: bytes = b""
    """Published to every namespace as `kube-root-ca.crt`."""
    sign_token: Sign | None = None
    """Makes the tokens of Secrets, for the API server has the key; without it such Secrets stay empty."""
    backoff_scale: float = 1.0
    """Shortens the pauses (retries of Jobs and daemons, a namespace's last seconds); 1 is Kubernetes' own."""


def add_controllers(manager: Manager, options: ControllerOptions) -> None:
    """Register every controller; they run when the manager does."""
    add_shared_indices(manager)
    DeploymentController(manager).build()
    ReplicaSetController(manager).build()
    ReplicaSetController(manager, REPLICATION_CONTROLLER).build()
    StatefulSetController(manager).build()
    DaemonSetController(manager, backoff_scale=options.backoff_scale).build()
    JobController(manager, backoff_scale=options.backoff_scale).build()
    CronJobController(manager).build()
    TtlController(manager).build()
    EndpointsController(manager).build()
    MirroringController(manager).build()
    DisruptionController(manager).build()
    ResourceQuotaController(manager).build()
    ServiceAccountController(manager, options.ca_pem).build()
    if options.sign_token is not None:
        AccountTokenController(manager, options.ca_pem, options.sign_token).build()
    NamespaceController(manager, grace_s=GRACE_S * options.backoff_scale).build()
    ClaimController(manager, options.volumes_dir).build()
    VolumeController(manager, options.volumes_dir).build()
    manager.add(GarbageCollector(manager).run, name="garbagecollector")
