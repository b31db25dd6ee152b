"""How fast reward models are trained."""
