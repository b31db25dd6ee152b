"""Work of models that a GPU does faster in another way, with the same values: layers as one kernel each, heads by its matrix units."""
