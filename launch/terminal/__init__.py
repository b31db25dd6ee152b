"""What a person sees in a terminal around a job: the help, a dry run, the last lines, completion of a command line."""
