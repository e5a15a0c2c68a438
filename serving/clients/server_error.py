"""The error of a client whose server answered, but not with predictions."""


class ServerError(RuntimeError):
    """The server's answer was an error, or not the answer of such a model.

    Args:
        message: One sentence.
        status: The HTTP status of the answer; over gRPC, the number of gRPC's status.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
