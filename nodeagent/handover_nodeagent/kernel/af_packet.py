"""Numbers of packet sockets for which Python has no names: linux/if_packet.h, linux/socket.h."""

from typing import Final

SOL_PACKET: Final = 263
RX_RING: Final = 5
STATISTICS: Final = 6
VERSION: Final = 10
VNET_HDR: Final = 15
IGNORE_OUTGOING: Final = 23
TPACKET_V3: Final = 2
ETH_P_ALL: Final = 0x0003
"""linux/if_ether.h."""
