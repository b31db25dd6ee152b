"""Downstream tasks and their verifiers."""
