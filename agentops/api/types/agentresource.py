"""AgentResource: something in the world that agents work on."""

from __future__ import annotations

from attrs import field, frozen

from agentops.api.fields import Rule, doc
from agentops.api.types.shared import CONDITIONS_DOC, Condition, ConfigMapKeyRef, ObjectMeta, SecretKeyRef

BLOCKS = {
    "github-repo": "github",
    "github-org": "githubOrg",
    "gitlab-project": "gitlab",
    "gitlab-group": "gitlabGroup",
    "git-repo": "git",
    "s3-bucket": "s3",
    "documentation": "documentation",
}
"""Which block belongs to which kind."""
KINDS = tuple(BLOCKS)
GIT_KINDS = ("github-repo", "gitlab-project", "git-repo")
PHASES = ("Pending", "Ready", "Failed")


@frozen(slots=True)
class GitHubRepo:
    """A GitHub repository."""

    owner: str = field(metadata=doc("User or organization.", min_length=1, max_length=256))
    repo: str = field(metadata=doc("Repository.", min_length=1, max_length=256))
    default_branch: str | None = field(default=None, metadata=doc("Default branch.", max_length=255))
    api_url: str | None = field(default=None, metadata=doc("API URL of GitHub Enterprise.", max_length=2048))


@frozen(slots=True)
class GitHubOrg:
    """A GitHub organization."""

    org: str = field(metadata=doc("Organization.", min_length=1, max_length=256))
    repo_filter: tuple[str, ...] = field(
        default=(), metadata=doc("Globs of repository names; absent: all.", max_items=128, max_length=256)
    )
    api_url: str | None = field(default=None, metadata=doc("API URL of GitHub Enterprise.", max_length=2048))


@frozen(slots=True)
class GitLabProject:
    """A GitLab project."""

    base_url: str = field(metadata=doc("URL of the GitLab instance.", min_length=1, max_length=2048))
    project: str = field(metadata=doc("Full path of the project.", min_length=1, max_length=1024))
    default_branch: str | None = field(default=None, metadata=doc("Default branch.", max_length=255))


@frozen(slots=True)
class GitLabGroup:
    """A GitLab group."""

    base_url: str = field(metadata=doc("URL of the GitLab instance.", min_length=1, max_length=2048))
    group: str = field(metadata=doc("Full path of the group.", min_length=1, max_length=1024))
    projects: tuple[str, ...] = field(
        default=(), metadata=doc("Projects; absent: all.", max_items=256, max_length=1024)
    )


@frozen(slots=True)
class GitRepo:
    """Any git repository."""

    url: str = field(metadata=doc("URL to clone.", min_length=1, max_length=2048))
    branch: str | None = field(default=None, metadata=doc("Default branch.", max_length=255))
    ssh_key_secret: SecretKeyRef | None = field(default=None, metadata=doc("SSH key; wins over credentials."))


@frozen(slots=True)
class S3Bucket:
    """A bucket."""

    bucket: str = field(metadata=doc("Name of the bucket.", min_length=1, max_length=256))
    region: str | None = field(default=None, metadata=doc("Region.", max_length=128))
    endpoint: str | None = field(default=None, metadata=doc("URL of the service.", max_length=2048))
    prefix: str | None = field(default=None, metadata=doc("Prefix of the keys that matter.", max_length=1024))


@frozen(slots=True)
class Documentation:
    """Documentation: links, or text in a ConfigMap."""

    urls: tuple[str, ...] = field(default=(), metadata=doc("Links.", max_items=128, max_length=2048))
    config_map_ref: ConfigMapKeyRef | None = field(default=None, metadata=doc("Text in a ConfigMap."))


@frozen(slots=True)
class AgentResourceSpec:
    """What the resource is: a kind, and the block of that kind."""

    kind: str = field(metadata=doc("What it is.", enum=KINDS))
    display_name: str = field(metadata=doc("Name shown to people.", min_length=1, max_length=256))
    description: str | None = field(
        default=None, metadata=doc("What it is for; people and models read it.", max_length=4096)
    )
    credentials: SecretKeyRef | None = field(
        default=None, metadata=doc("Secret key with the token, SSH key or access key the kind needs.")
    )
    github: GitHubRepo | None = field(default=None, metadata=doc("For kind github-repo."))
    github_org: GitHubOrg | None = field(default=None, metadata=doc("For kind github-org."))
    gitlab: GitLabProject | None = field(default=None, metadata=doc("For kind gitlab-project."))
    gitlab_group: GitLabGroup | None = field(default=None, metadata=doc("For kind gitlab-group."))
    git: GitRepo | None = field(default=None, metadata=doc("For kind git-repo."))
    s3: S3Bucket | None = field(default=None, metadata=doc("For kind s3-bucket."))
    documentation: Documentation | None = field(default=None, metadata=doc("For kind documentation."))


SPEC_RULES = tuple(
    Rule(
        f"(self.kind == '{kind}') == has(self.{block})",
        f"block {block} belongs to kind {kind}, and that kind needs it",
        f".{block}",
        "FieldValueInvalid",
    )
    for kind, block in BLOCKS.items()
)


@frozen(slots=True)
class AgentResourceStatus:
    """What the operator last saw."""

    phase: str | None = field(default=None, metadata=doc("Whether agents can use the resource.", enum=PHASES))
    message: str | None = field(default=None, metadata=doc("Why the phase is what it is, in one line."))
    observed_generation: int | None = field(
        default=None, metadata=doc("The generation of the spec this status was computed from.", format="int64")
    )
    conditions: tuple[Condition, ...] = field(default=(), metadata=CONDITIONS_DOC)


@frozen(slots=True)
class AgentResource:
    """Something in the world that agents work on: a repository, a bucket, documentation."""

    metadata: ObjectMeta = field(metadata=doc("Standard object metadata."))
    spec: AgentResourceSpec = field(metadata=doc("What the resource is."))
    status: AgentResourceStatus = field(factory=AgentResourceStatus, metadata=doc("What the operator last saw."))
