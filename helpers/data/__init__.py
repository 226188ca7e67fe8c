"""Photos and masks: the sample table, readers, checks, splits, built-in pictures."""
