"""The hub as huggingface_hub reaches it: its endpoint, its errors in a line; tokens are left to it and never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro_vae.errors import InputError, first_line

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
ENDPOINT = "https://huggingface.co"


def hub_client() -> Any:
    """A client of the hub that HF_ENDPOINT names, or of huggingface.co.

    Raises:
        InputError: if huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise InputError("a hub is reached by huggingface_hub: pip install 'pyro-vae[hub]'") from error
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or ENDPOINT, library_name="pyro-vae")


def check_repository(name: str) -> str:
    """A repository's name, if it is one.

    Raises:
        InputError: otherwise.
    """
    if not REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise InputError(f"'{name[:100]}' is no repository's name: say USER/NAME")
    return name


@contextmanager
def reaching(repository: str, client: Any) -> Iterator[None]:
    """A block in which the errors of the hub, and of the way there, become one of ours.

    Raises:
        InputError: says what the hub answered.
    """
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"{repository} at {client.endpoint}"
    try:
        yield
    except InputError:
        raise
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{where}: there is no such repository, or you may not see it (log in: hf auth login)"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{where}: there is no such revision") from error
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        login = ": log in (hf auth login), with a token that may write" if status in (401, 403) else ""
        raise InputError(f"{where}: the hub refused (status {status}){login}") from error
    except Exception as error:  # the ways of failing on the way there are many, and change with the HTTP library
        raise InputError(f"{where} cannot be reached: {type(error).__name__}: {first_line(error)[:200]}") from error
