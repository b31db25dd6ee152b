"""Runs that are there already: found, listed, shown, and started once more with other settings."""
