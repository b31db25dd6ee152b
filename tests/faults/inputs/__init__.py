"""Wrong values on the command line and in every kind of file that a job reads."""
