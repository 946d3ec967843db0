"""libnftables through ctypes, served by a process of its own, which may die of it.

The library follows what other programs have put into their tables, also where it is older than
they are, and then crashes; where the kernel has no nf_tables it calls exit(). So the agent never
loads it: it runs this file (``nft_process``). What is not imported here is not paid for in memory:
typing and re alone would take 1.6 MiB.
"""

import ctypes
import os
import resource
import struct
import sys
from signal import SIGKILL

LIBRARY = "libnftables.so.1"
HEADER = struct.Struct("=BI")
"""What goes each way in front of a text: what to do or how it went, and the text's length."""
RUN, SHOW = 0, 1
OK, REFUSED, UNAVAILABLE = 0, 1, 2

# NFT_CTX_OUTPUT_JSON of nftables/libnftables.h; the prctl(2) numbers are of linux/prctl.h.
_JSON = 1 << 4
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_MOST_MEMORY = 96 << 20
"""The library reads others' tables too; the pod's limit (256 MiB) would end the agent as well."""


class UnavailableError(Exception):
    """libnftables cannot be used: the sentence says what to install."""


class Context:
    """One context: of the network namespace in which it was made, and for one thread."""

    def __init__(self, library: str = LIBRARY) -> None:
        """Raise UnavailableError where the library is absent."""
        self._library = _load(library)
        self._context = self._library.nft_ctx_new(0)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: bytes) -> tuple[int, bytes]:
        """Run *commands* as one transaction; return why nothing of it was done where REFUSED."""
        if not self._run(commands, 0):
            return OK, b""
        buffer: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        return REFUSED, buffer

    def show(self, command: bytes) -> tuple[int, bytes]:
        """Return the JSON that *command* prints."""
        if self._run(command, _JSON):
            return REFUSED, b""
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        return OK, output

    def _run(self, commands: bytes, flags: int) -> int:
        self._library.nft_ctx_output_set_flags(self._context, flags)
        failed: int = self._library.nft_run_cmd_from_buffer(self._context, commands)
        return failed


def _load(name: str) -> ctypes.CDLL:
    """Load the library and name the types of the functions that are used."""
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        text = f"{name} cannot be loaded: install libnftables1 (Debian) or nftables (Fedora)"
        raise UnavailableError(text) from error
    context = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = context
    library.nft_ctx_buffer_output.argtypes = [context]
    library.nft_ctx_buffer_error.argtypes = [context]
    library.nft_ctx_output_set_flags.argtypes = [context, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
    library.nft_ctx_get_output_buffer.argtypes = [context]
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.argtypes = [context]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    return library


def serve(library: str, author: str, parent: int) -> int:
    """Do what *parent* asks for over standard input, a socket, until it closes its end."""
    libc = ctypes.CDLL(None)
    # A library that hangs reads no end of file. The signal comes when the thread ends that started
    # this process; should that be over already, the parent is another one.
    libc.prctl(_PR_SET_PDEATHSIG, int(SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        return 1
    # The kernel's notifications tell by this name whose a transaction was (``authorship.py``).
    libc.prctl(_PR_SET_NAME, author.encode(), 0, 0, 0)
    # A crash leaves no core file on the node.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    try:
        context = Context(library)
    except UnavailableError as error:
        _send(UNAVAILABLE, str(error).encode())
        return 1
    while head := _receive(HEADER.size):
        kind, length = HEADER.unpack(head)
        text = _receive(length)
        _send(*(context.show(text) if kind == SHOW else context.run(text)))
    return 0


def _receive(length: int) -> bytes:
    """Return so many octets, b"" at the end of all requests."""
    parts = b""
    while len(parts) < length:
        part = os.read(0, length - len(parts))
        if not part:
            return b""
        parts += part
    return parts


def _send(status: int, text: bytes) -> None:
    left = HEADER.pack(status, len(text)) + text
    while left:
        left = left[os.write(0, left) :]


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
