"""Looking at data and model before a run: every file and picture, lengths, whether processor and model agree.

May import `records`, `loading` and `scoring` beside it, and what `data` may.
"""
