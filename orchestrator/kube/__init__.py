"""The Kubernetes API: the only place that knows the client library."""
