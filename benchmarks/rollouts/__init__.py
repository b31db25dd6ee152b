"""How fast completions are drawn."""
