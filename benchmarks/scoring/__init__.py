"""How fast reward models score."""
