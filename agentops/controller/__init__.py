"""A reconciler framework on the raw watch API: in Python what controller-runtime is in Go.

    Manager ── owns ──► Cache (informers) ──► Client (cached reads, live writes)
       │                    │ events
       └── runs ──► Controller ◄── Source (predicates, handler)
                        └── queue of Requests ──► your `async def reconcile(request)`

Knows nothing of our own kinds: imports `kube`, `net`, `telemetry` and `values` only.
"""

from agentops.controller.admission import AdmissionRequest, Denied
from agentops.controller.apply import Outcome, ensure, matches
from agentops.controller.builder import Builder
from agentops.controller.cache import ALL_NAMESPACES, Cache, CacheOptions, Scope, SharedInformer
from agentops.controller.client import Client
from agentops.controller.cluster import Cluster, ClusterOptions
from agentops.controller.controller import Controller, ControllerOptions, reconcile_id
from agentops.controller.conversion import ConversionError, Spoke
from agentops.controller.errors import (
    AlreadyOwned,
    BuildError,
    CacheNotStarted,
    CacheSyncTimeout,
    ChangedMeanwhile,
    ControllerError,
    ForeignObject,
    GraceExceeded,
    LeaderElectionLost,
    ResourceNotCached,
    RetryAfter,
    StaleCache,
    TerminalError,
)
from agentops.controller.events import EventRecorder
from agentops.controller.expectations import Expectations
from agentops.controller.handlers import EnqueueForObject, EnqueueForOwner, EnqueueMapped
from agentops.controller.informer import ObjectEvent
from agentops.controller.leaderelection import LeaderElectionOptions, LeaderElector
from agentops.controller.manager import Manager, ManagerOptions
from agentops.controller.reconcile import Reconciler, Request, Result, object_reconciler
from agentops.controller.securemetrics import SecureMetrics
from agentops.controller.source import ChannelSource, FuncSource, KindSource
from agentops.controller.store import Entry
from agentops.controller.target import WatchOptions
from agentops.controller.webhook import WebhookOptions, WebhookServer

__all__ = [
    "ALL_NAMESPACES",
    "AdmissionRequest",
    "AlreadyOwned",
    "BuildError",
    "Builder",
    "Cache",
    "CacheNotStarted",
    "CacheOptions",
    "CacheSyncTimeout",
    "ChangedMeanwhile",
    "ChannelSource",
    "Client",
    "Cluster",
    "ClusterOptions",
    "Controller",
    "ControllerError",
    "ControllerOptions",
    "ConversionError",
    "Denied",
    "EnqueueForObject",
    "EnqueueForOwner",
    "EnqueueMapped",
    "Entry",
    "EventRecorder",
    "Expectations",
    "ForeignObject",
    "FuncSource",
    "GraceExceeded",
    "KindSource",
    "LeaderElectionLost",
    "LeaderElectionOptions",
    "LeaderElector",
    "Manager",
    "ManagerOptions",
    "ObjectEvent",
    "Outcome",
    "Reconciler",
    "Request",
    "ResourceNotCached",
    "Result",
    "RetryAfter",
    "Scope",
    "SecureMetrics",
    "SharedInformer",
    "Spoke",
    "StaleCache",
    "TerminalError",
    "WatchOptions",
    "WebhookOptions",
    "WebhookServer",
    "ensure",
    "matches",
    "object_reconciler",
    "reconcile_id",
]
