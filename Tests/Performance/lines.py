"""What a child process says: lines of JSON. Whatever else it prints is passed over."""
import json
import os
import select
import time


class JSONLines:
    """The lines of a pipe, one by one, with a limit to the patience."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.rest = b""

    def next(self, limit):
        """The next line of JSON; None when so many seconds are over. EOFError: the child has closed the pipe."""
        deadline = time.monotonic() + limit
        while True:
            line, newline, rest = self.rest.partition(b"\n")
            if newline:
                self.rest = rest
                if line.startswith(b"{"):
                    return json.loads(line)
                continue
            if not select.select([self.pipe], [], [], max(0, deadline - time.monotonic()))[0]:
                return None
            part = os.read(self.pipe.fileno(), 1 << 16)
            if not part:
                raise EOFError
            self.rest += part
