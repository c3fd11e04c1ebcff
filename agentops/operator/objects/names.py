"""What the children of each kind are called, and where things live in a pod and on the network."""

from __future__ import annotations

from agentops.values.names import env_stem, is_label_value, safe_name

RUNTIME_PORT = 4096
MEMORY_PORT = 7437

CONFIG_DIR = "/etc/operator"
CONFIG_KEY = "config.json"
CONTEXT_DIR = "/etc/context"
DATA_DIR = "/var/lib/agentops"
WORKSPACE = "/data"
TOKEN_DIR = "/var/run/agentops/token"
MEMORY_TOKEN_DIR = "/var/run/agentops/memory"
PROMPT_DIR = "/etc/agentops/prompt"
PROMPT_KEY = "prompt.txt"
TOKEN_KEY = "token"
MEMORY_TOKEN_KEY = "memory-token"
SALT_KEY = "hash-salt"
OUTPUT_KEY = "output.txt"


def config_map(agent: str) -> str:
    return f"{agent}-config"


def storage(agent: str) -> str:
    return f"{agent}-storage"


def network_policy(agent: str) -> str:
    return f"{agent}-netpol"


def rbac(agent: str) -> str:
    """ServiceAccount, Role and RoleBinding share one name."""
    return f"{agent}-agent"


def token_secret(owner: str) -> str:
    """The bearer of an agent, or of the memory service a `serverRef` names."""
    return f"{owner}-token"


def job(run: str) -> str:
    """The Job of a task run. Pod labels carry Job names, so longer ones are cut and hashed."""
    return safe_name(run)


def prompt_config_map(run: str) -> str:
    return f"{run}-prompt"


def output_config_map(run: str) -> str:
    return f"{run}-output"


def label_value(name: str) -> str:
    """An object's name as a label value; what cannot be one, such as a reference nobody can meet, is cut and hashed."""
    return name if is_label_value(name) else safe_name(name)


def service_url(agent: str, namespace: str) -> str:
    return f"http://{agent}.{namespace}.svc:{RUNTIME_PORT}"


def memory_url(server_ref: str, namespace: str) -> str:
    return f"http://{server_ref}.{namespace}.svc:{MEMORY_PORT}"


def variable(provider: str, suffix: str) -> str:
    """`MY_LLM_API_KEY` for provider `my-llm`: upper case, every non-alphanumeric an underscore."""
    return f"{env_stem(provider)}_{suffix}"
