"""libnftables in process, through ctypes: a transaction takes 0.2 ms, a process would take 16.

There is no usable package of it on PyPI. A context works in the network namespace in which it was
made, and for one thread.
"""

import ctypes
import re
from typing import Final

_LIBRARY: Final = "libnftables.so.1"
_JSON: Final = 1 << 4
_PLACE: Final = re.compile(r"^\S*:\d+:\d+-\d+: ")


class UnavailableError(Exception):
    """libnftables cannot be used: the sentence says what to install."""


class Context:
    """One context; keep it in the thread that made it."""

    def __init__(self) -> None:
        """Raise UnavailableError where the library is absent."""
        self._library = _load()
        self._context = self._library.nft_ctx_new(0)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Run *commands* as one transaction; return "" or why nothing of it was done."""
        return self._complaint() if self._run(commands, 0) else ""

    def show(self, command: str) -> str:
        """Return the JSON that *command* prints, "" when it is refused."""
        if self._run(command, _JSON):
            return ""
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        return output.decode()

    def close(self) -> None:
        """Give the context back."""
        self._library.nft_ctx_free(self._context)

    def _run(self, commands: str, flags: int) -> int:
        self._library.nft_ctx_output_set_flags(self._context, flags)
        failed: int = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        return failed

    def _complaint(self) -> str:
        """Return the first line of the error; the lines after it repeat the command."""
        buffer: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        first = (buffer.decode(errors="replace").strip() or "nftables gave no reason").splitlines()
        return _PLACE.sub("", first[0]).removeprefix("netlink: ").removeprefix("Error: ")


def _load() -> ctypes.CDLL:
    """Load the library and name the types of the functions that are used."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        text = f"{_LIBRARY} cannot be loaded: install libnftables1 (Debian) or nftables (Fedora)"
        raise UnavailableError(text) from error
    context = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = context
    library.nft_ctx_free.argtypes = [context]
    library.nft_ctx_buffer_output.argtypes = [context]
    library.nft_ctx_buffer_error.argtypes = [context]
    library.nft_ctx_output_set_flags.argtypes = [context, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
    library.nft_ctx_get_output_buffer.argtypes = [context]
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.argtypes = [context]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    return library
