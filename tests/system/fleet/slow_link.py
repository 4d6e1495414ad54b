"""Relays Ethernet frames between a device and a new TAP device, each after a delay.

``slow_link.py DEVICE TAP DELAY_S``. It does what `tc qdisc add … netem delay` does, on kernels without netem too. Each
frame has the header of virtio-net in front, so that checksums and segments that the kernel has left to the network card
stay left to it.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_OUTGOING = 263, 15, 4
_ETH_P_ALL = 3
_FRAME_BYTES = 1 << 17


def main(device: str, tap: str, delay_s: float) -> None:
    """Relays until the process is ended.

    Args:
        device: name of a device that is up.
        tap: name of the TAP device to make.
        delay_s: delay of each frame, in seconds.
    """
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    wire.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    wire.bind((device, 0))
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", tap.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    to_wire = deque[tuple[float, bytes]]()
    to_tap = deque[tuple[float, bytes]]()
    while True:
        now_s = time.monotonic()
        while to_wire and to_wire[0][0] <= now_s:
            wire.send(to_wire.popleft()[1])
        while to_tap and to_tap[0][0] <= now_s:
            os.write(end, to_tap.popleft()[1])
        due_s = min((waiting[0][0] for waiting in (to_wire, to_tap) if waiting), default=now_s + 1)
        ready, _, _ = select.select([wire, end], [], [], max(0.0, due_s - time.monotonic()))
        if wire in ready:
            frame, source = wire.recvfrom(_FRAME_BYTES)
            if source[2] != _PACKET_OUTGOING:
                to_tap.append((time.monotonic() + delay_s, frame))
        if end in ready:
            to_wire.append((time.monotonic() + delay_s, os.read(end, _FRAME_BYTES)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
