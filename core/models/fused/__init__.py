"""Layers of which a GPU makes one kernel each, in models as transformers has them."""
