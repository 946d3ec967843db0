"""The kernel's list of sockets tells which speakers there are."""

from pathlib import PurePosixPath

from handover_nodeagent.commands.check_bgp import control_sockets
from handover_nodeagent.commands.check_bgp.control_sockets import ControlSockets

HEAD = "Num       RefCount Protocol Flags    Type St Inode Path\n"


def line(path: str, flags: str = "00010000") -> str:
    """Write one line as the kernel does."""
    return f"0000000000000000: 00000002 00000000 {flags} 0001 01 12345 {path}\n"


def test_bird_and_frr_are_found_by_their_sockets() -> None:
    table = HEAD + "".join(
        (
            line("/run/bird/bird.ctl"),
            line("/var/run/frr/zebra.vty"),
            line("/var/run/frr/bgpd.vty"),
            line("/var/run/frr/zserv.api"),
            "0000000000000000: 00000002 00000000 00000000 0002 01 99\n",
        )
    )

    assert control_sockets.find(table) == ControlSockets(
        (PurePosixPath("/run/bird/bird.ctl"),), (PurePosixPath("/var/run/frr"),)
    )


def test_who_is_connected_or_is_half_of_an_frr_is_none() -> None:
    table = HEAD + "".join(
        (
            line("/run/bird/bird.ctl", "00000000"),
            line("@/run/bird/bird.ctl"),
            line("/run/frr/zebra.vty"),
            line("/other/bgpd.vty"),
        )
    )

    found = control_sockets.find(table)

    assert found == ControlSockets()
    assert not found


def test_each_socket_is_named_once() -> None:
    table = HEAD + line("/run/a b/bird-1.ctl") * 2 + line("/run/a b/bird.conf")
    assert control_sockets.find(table).bird == (PurePosixPath("/run/a b/bird-1.ctl"),)
