"""What the server refuses: one sentence for the user and an HTTP status."""

from lrm_jax.errors import InputError


class RequestError(InputError):
  """A request that cannot be served; `status` is the HTTP status of the answer, which is {"error": message}."""

  def __init__(self, status: int, message: str):
    super().__init__(message)
    self.status = status
