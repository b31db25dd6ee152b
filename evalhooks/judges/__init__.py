"""Generative judges as Scorers: language models that rate one answer or choose the best of several."""
