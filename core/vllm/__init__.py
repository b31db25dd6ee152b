"""A vLLM server: requests, and how it gets new weights."""
