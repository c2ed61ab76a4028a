"""Errors an agent can meet. Each dialect puts them into its own API's form; the status and the code are the same everywhere."""

from __future__ import annotations


class ApiError(Exception):
    """A refused request: HTTP status, machine-readable code, sentence. ``retry`` tells the SDKs whether trying again can help."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None, retry: bool = False):
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry = status, code, message, param, retry

    @property
    def type(self) -> str:
        """OpenAI's coarse error type."""
        return {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )


def bad_request(message: str, *, code: str = "invalid_request", param: str | None = None) -> ApiError:
    return ApiError(400, code, message, param=param)


def context_overflow(prompt_tokens: int, limit_tokens: int) -> ApiError:
    """The wording follows OpenAI's, because agents recognise overflow by it."""
    return ApiError(
        400,
        "context_length_exceeded",
        f"This model's maximum context length is {limit_tokens} tokens. However, your messages resulted in {prompt_tokens} tokens. "
        "Please reduce the length of the messages.",
        param="messages",
    )


class SuspendedError(Exception):
    """This process ends and the next one serves the session. Never shown to an agent: its connection breaks, and it asks again."""


class EngineAwayError(Exception):
    """The engine cannot be reached or belongs to another epoch. Never shown to an agent: its request waits."""


class EngineError(Exception):
    """The engine answered something that breaks its protocol, or refused the request itself."""
