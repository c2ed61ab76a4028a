"""Questions to one run, answered from its index: each a function from (`Seen`, its parameters) to plain JSON data.

Parameters are checked by the routes; nothing here turns one into a path. Times are seconds since the epoch, durations seconds.
"""
