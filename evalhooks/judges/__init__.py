"""Generative judges as Scorers: language models that rate one answer or pick the best of several."""
