"""The report of a table of scores: sections and pictures, alone or as part of the report of a study."""
