"""A sink that remembers."""


class Recorder:
    """Every event, in the order in which it came."""

    def __init__(self):
        self.events = []

    def emit(self, event):
        self.events.append(event)

    def names(self):
        return [e.name for e in self.events]

    def named(self, name):
        return [e for e in self.events if e.name == name]

    def steps(self, name):
        """The steps for which there was such an event."""
        return [e.fields["step"] for e in self.named(name)]
