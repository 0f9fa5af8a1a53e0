"""Kubernetes maintenance without surprises."""

__version__ = "0.1.0"
