"""`agentops model`: parse flags, build the service, run it."""

from __future__ import annotations

from pathlib import Path

import click

from agentops.cli.options import role_options


@click.command()
@click.option("--listen", envvar="MODEL_LISTEN", default=":8000", show_default=True, help="Address to serve on.")
@click.option(
    "--script",
    envvar="MODEL_SCRIPT",
    type=click.Path(path_type=Path),
    help="Play this script (YAML or JSON) instead of running the small model.",
)
@click.option(
    "--weights",
    envvar="MODEL_WEIGHTS",
    type=click.Path(path_type=Path),
    help="A GGUF file to run instead of SmolLM2.",
)
@click.option(
    "--model-dir",
    envvar="MODEL_DIR",
    default="/var/lib/agentops/models",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where SmolLM2's weights are kept; fetched on first use.",
)
@click.option(
    "--record",
    envvar="MODEL_RECORD",
    type=click.Path(path_type=Path),
    help="Append every request to this file, as JSON lines.",
)
@role_options("agentops-model")
def model(listen: str, script: Path | None, weights: Path | None, model_dir: Path, record: Path | None) -> None:
    """Run a small real model (SmolLM2), or a script, in OpenAI's and Anthropic's shapes.

    GET /requests shows every request as JSON lines. The script format is in docs/model-script.md.
    """
    from agentops.model.service import ModelOptions, ModelService
    from agentops.net.paths import pod_path
    from agentops.net.serve import run_until_signal

    service = ModelService(
        ModelOptions(
            listen=listen,
            script=None if script is None else pod_path(script),
            weights=None if weights is None else pod_path(weights),
            model_dir=pod_path(model_dir),
            record=None if record is None else pod_path(record),
        )
    )
    run_until_signal(service.run)
