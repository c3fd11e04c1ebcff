"""Webhooks for Coupon: a default, a rule the schema cannot say, and the conversion from an older version.

The certificate is read from WEBHOOK_CERT_DIR (or where controller-runtime looks) and followed when it is
renewed. There is nothing to reconcile: a manager without controllers is a webhook server.
"""

import os
from typing import Any

from agentops.controller import AdmissionRequest, Denied, Manager, ManagerOptions, Spoke, WebhookOptions
from agentops.kube import load_config
from agentops.net.serve import run_until_signal
from agentops.values.kinds import Kind

COUPON = Kind("examples.agentops.io", "v1", "Coupon", "coupons")


async def default(coupon: dict[str, Any], request: AdmissionRequest) -> None:
    coupon["spec"].setdefault("code", coupon["metadata"].get("name", "").upper())


async def validate(coupon: dict[str, Any], request: AdmissionRequest) -> list[str]:
    old = request.old_object
    if request.operation == "UPDATE" and old and old["spec"]["code"] != coupon["spec"]["code"]:
        raise Denied("spec.code is printed on paper already; make another Coupon")
    return ["this is generous"] if coupon["spec"].get("percent", 0) > 50 else []


def to_v1(coupon: dict[str, Any]) -> None:
    coupon["spec"]["percent"] = round(float(coupon["spec"].pop("fraction")) * 100)


def to_v1alpha1(coupon: dict[str, Any]) -> None:
    coupon["spec"]["fraction"] = str(coupon["spec"].pop("percent") / 100)


def add_webhooks(manager: Manager) -> None:
    manager.webhooks.mutating(COUPON, default)
    manager.webhooks.validating(COUPON, validate)
    manager.webhooks.converting(COUPON, {"v1alpha1": Spoke(to_hub=to_v1, from_hub=to_v1alpha1)})


async def main() -> None:
    found = os.environ.get("WEBHOOK_CERT_DIR")
    webhooks = WebhookOptions(cert_dir=found) if found else WebhookOptions()
    manager = Manager(await load_config(), ManagerOptions(name="coupons", probes_bind=":8081", webhooks=webhooks))
    add_webhooks(manager)
    await manager.run()


if __name__ == "__main__":
    run_until_signal(main)
