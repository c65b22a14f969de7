"""A worker's loop: a message, a unit of work, an acknowledgement.

- `loop`: `consume`, the loop.
- `attempts`: the work of one message in the database, tried again while that can help.
- `remedies`: what has to be over before another try.
- `sources`: where the messages come from, and how one waits for the next until it is time to stop.
- `message_names`: what a log line calls a message.
"""
