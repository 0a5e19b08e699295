"""Who holds which records, who is selected, and the stream of tasks; a partition as files."""
