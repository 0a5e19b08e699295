"""Looking at data and model before a run: every file and picture, lengths, whether processor and model agree."""
