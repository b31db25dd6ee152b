"""Proximal policy optimisation against any reward."""
