"""Scorers beside the plain reward model."""
