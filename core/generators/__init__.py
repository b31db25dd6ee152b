"""What draws completions from a policy: transformers, continuous batching, a vLLM server."""
