"""What one notebook needs beyond the rooms below: tables in, tables out."""
