"""Prompt trees: many completions of a prompt in one flat stream without padding, and the attention that reads it."""
