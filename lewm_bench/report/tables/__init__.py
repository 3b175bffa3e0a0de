"""The reader's tables, a file per table and per format, from a summary's numbers: nothing here computes a statistic."""
