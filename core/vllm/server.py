"""Requests to an inference server, retried where that can help, with a clear error where it cannot."""

import time
from types import TracebackType

import httpx

from core.disk import Json

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 4.0


class Server:
    """Client of an HTTP server that speaks JSON; safe to use from several threads.

    Connection errors, timeouts (`timeout_s` per request) and the statuses 429 and 5xx are retried up to `retries` times,
    after 0.25 s, 0.5 s, 1 s and so on up to 4 s. Requests that fail for good raise `ValueError` with the URL and the reason.
    """

    def __init__(self, base_url: str, *, parallel: int = 8, timeout_s: float = 60, retries: int = 4) -> None:
        if not is_address(base_url):
            raise ValueError(f"The address of the vLLM server is {base_url!r}; give one such as http://localhost:8000.")
        self.base_url, self.retries = base_url.rstrip("/"), retries
        limits = httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel)
        self._client = httpx.Client(timeout=timeout_s, limits=limits)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; no requests are possible afterwards."""
        self._client.close()

    def get(self, path: str, *, remedy: str = "") -> Json:
        """The JSON response of `path`. `remedy` is the advice in the error if the server refuses the request."""
        return self._answer("GET", path, None, self.retries, remedy)

    def post(self, path: str, body: object = None, *, retry: bool = True, remedy: str = "") -> Json:
        """The JSON response of `path` to `body`, None if it is empty. Without `retry` the first failure is final."""
        return self._answer("POST", path, body, self.retries if retry else 0, remedy)

    def _answer(self, method: str, path: str, body: object, retries: int, remedy: str) -> Json:
        url = self.base_url + path
        failure = ""
        for attempt in range(retries + 1):
            if attempt > 0:
                time.sleep(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)))
            try:
                response = self._client.request(method, url, json=body)
            except httpx.TransportError as error:
                failure = f"{type(error).__name__} ({error})" if str(error) else type(error).__name__
                continue
            if response.is_success:
                return _content(url, response)
            failure = f"status {response.status_code} ({_message(response)})"
            if response.status_code != 429 and response.status_code < 500:
                advice = remedy or "check the address, the model's name and its length limit."
                raise ValueError(f"{url} refuses the request: {failure}; {advice}")
        raise ValueError(f"{url} did not answer in {retries + 1} attempts, the last one with {failure}; is the server up?")


def is_address(text: str) -> bool:
    """Whether `text` is an http or https URL with a host."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _content(url: str, response: httpx.Response) -> Json:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as error:
        raise ValueError(f"{url} answered {response.text!r:.200}, which is no JSON; is it a vLLM server?") from error


def _message(response: httpx.Response) -> str:
    """The server's own error message where the body has one, else the start of the body."""
    try:
        found = response.json()
    except ValueError:
        return response.text[:300]
    if isinstance(found, dict):
        inner = found.get("error", found.get("detail", found))
        if isinstance(inner, dict):
            return str(inner.get("message", inner))[:300]
        return str(inner)[:300]
    return str(found)[:300]
