"""Files that are damaged, gone or unwritable, and neighbours that fail."""
