"""The verbs of ``dam``, one file each: parse, call, print."""
