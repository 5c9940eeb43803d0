"""Pictures from the web: one request each, with limits, and none when the user is offline on purpose."""

import time
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from blip2 import __version__
from blip2.checkpoints import is_offline

TIMEOUT = 20.0  # seconds, for the connection and again for the whole download
MAX_BYTES = 64 * 2**20
_CHUNK = 2**16


def read_url(url: str, *, timeout: float = TIMEOUT, max_bytes: int = MAX_BYTES) -> bytes:
    """What the address holds.

    Args:
        url: http or https.
        timeout: seconds.
        max_bytes: a longer answer is refused.

    Raises:
        ValueError: another scheme, or an answer that is too long.
        OSError: offline by choice, not reachable, too slow, or refused by the server.
    """
    scheme = urlsplit(url).scheme.lower()
    if scheme not in ("http", "https"):
        raise ValueError(f"{url!r}: addresses of pictures begin with http:// or https://, not {scheme}://")
    if is_offline():
        raise OSError(
            f"{url}: not fetched, because BLIP2_OFFLINE or HF_HUB_OFFLINE is set; unset it, or give a file instead"
        )
    deadline = time.monotonic() + timeout
    request = Request(url, headers={"User-Agent": f"blip2/{__version__}", "Accept": "image/*,*/*;q=0.5"})
    try:
        with urlopen(request, timeout=timeout) as response:
            chunks, size = [], 0
            while chunk := response.read1(_CHUNK):
                chunks.append(chunk)
                size += len(chunk)
                if size > max_bytes:
                    raise ValueError(f"{url}: more than {max_bytes / 2**20:g} MiB; too long for a picture")
                if time.monotonic() > deadline:
                    raise TimeoutError
            announced = response.headers.get("Content-Length")
            if announced is not None and size < int(announced):
                raise OSError(f"{url}: the connection broke off after {size} of {announced} bytes")
    except HTTPError as error:
        raise OSError(f"{url}: the server answered {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise OSError(f"{url}: no complete answer within {timeout:g} s") from error
    except URLError as error:
        raise OSError(f"{url}: not reachable ({error.reason})") from error
    except HTTPException as error:
        raise OSError(f"{url}: no proper answer ({type(error).__name__}: {error})") from error
    return b"".join(chunks)
