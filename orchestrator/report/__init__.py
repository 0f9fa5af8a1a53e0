"""What people and programs are shown."""

#: The versioned shape of every result; see `docs/output.md`.
API_VERSION = "kube-orchestrator.io/v1"
