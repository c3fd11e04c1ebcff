"""`agentops operator`: parse flags, build the operator, run it."""

from __future__ import annotations

import click

from agentops.cli.options import role_options


@click.command()
@click.option("--kubeconfig", envvar="KUBECONFIG", help="Kubeconfig file; without one, the pod's ServiceAccount.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option(
    "--metrics-bind-address", default=":8080", show_default=True, help="Address of /metrics over HTTP; 0 is off."
)
@click.option(
    "--health-probe-bind-address",
    default=":8081",
    show_default=True,
    help="Address of /healthz and /readyz; 0 is off.",
)
@click.option("--explain", is_flag=True, help="Show at /debug/queue, beside /metrics, why objects were reconciled.")
@click.option("--leader-elect", is_flag=True, help="Work only while holding the Lease agentops-operator.")
@click.option("--runtime-image", help="Image of agent pods; without it, that of the operator's own pod.")
@click.option("--otel-endpoint", help="OTLP/HTTP base URL for agent pods, such as http://tempo:4318.")
@click.option("--nats-url", help="NATS URL for agent pods.")
@click.option(
    "--watch-namespaces", envvar="WATCH_NAMESPACES", default="", help="Comma-separated; empty is the whole cluster."
)
@click.option("--run-ttl", default="168h", show_default=True, help="How long finished AgentRuns are kept.")
@click.option("--pod-name", envvar="POD_NAME", hidden=True)
@click.option("--pod-namespace", envvar="POD_NAMESPACE", default="agent-system", hidden=True)
@role_options("agentops-operator")
def operator(
    kubeconfig: str | None,
    context: str | None,
    metrics_bind_address: str,
    health_probe_bind_address: str,
    explain: bool,
    leader_elect: bool,
    runtime_image: str | None,
    otel_endpoint: str | None,
    nats_url: str | None,
    watch_namespaces: str,
    run_ttl: str,
    pod_name: str | None,
    pod_namespace: str,
) -> None:
    """Run the controller manager: reconcilers, leader election, metrics, probes."""
    from agentops.kube.aiohttp_transport import AiohttpTransport
    from agentops.kube.client import ApiClient
    from agentops.kube.config import load_config
    from agentops.net.errors import UsageError
    from agentops.net.serve import exit_with, run_until_signal
    from agentops.operator.app import Operator, resolve_runtime_image
    from agentops.operator.objects.env import Endpoints
    from agentops.operator.options import OperatorOptions
    from agentops.telemetry.tracing import require_endpoint
    from agentops.values.duration import parse_duration
    from agentops.values.names import is_dns1123_label

    namespaces = tuple(name.strip() for name in watch_namespaces.split(",") if name.strip())
    try:
        for name in namespaces:
            if not is_dns1123_label(name):
                raise UsageError(f"--watch-namespaces: {name!r} is not a namespace; separate names with commas")
        try:
            run_ttl_s = int(parse_duration(run_ttl))
        except ValueError as error:
            raise UsageError(f"--run-ttl: {error}") from error
        if explain and metrics_bind_address in ("", "0"):
            raise UsageError("--explain: it is served beside /metrics; give --metrics-bind-address an address")
        if run_ttl_s < 0:
            raise UsageError(f"--run-ttl: {run_ttl!r} is negative; write a duration such as 168h")
        if otel_endpoint:
            try:
                require_endpoint(otel_endpoint)
            except ValueError as error:
                raise UsageError(f"--otel-endpoint: {error}") from error
    except UsageError as error:
        exit_with(error)
    options = OperatorOptions(
        runtime_image=runtime_image,
        endpoints=Endpoints(otel=otel_endpoint, nats=nats_url),
        watch_namespaces=namespaces,
        metrics_bind=metrics_bind_address,
        probes_bind=health_probe_bind_address,
        explain=explain,
        leader_elect=leader_elect,
        pod_name=pod_name,
        pod_namespace=pod_namespace,
        run_ttl_s=run_ttl_s,
        owns_process=True,
    )

    async def main() -> None:
        async with AiohttpTransport(await load_config(kubeconfig, context)) as transport:
            image = await resolve_runtime_image(ApiClient(transport), options)
            await Operator(transport, options, runtime_image=image).run()

    run_until_signal(main)
