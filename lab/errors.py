"""What the lab says when it cannot go on."""


class LabError(Exception):
    """Something is missing or went wrong; the remedy is an order to paste or a thing to do."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
