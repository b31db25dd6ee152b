"""The page of a report: tables that sort and filter, figures drawn from one block of data, and the rows that reward models get wrong."""
