"""From a record to a batch: prompt, tokens, pixels, identity feature; padding; the order of a client's steps.

May import `records` and `partition` beside it, and what `data` may.
"""
