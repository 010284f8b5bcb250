"""Free ports of this machine."""

import random
import socket

from handwriting.errors import HandwritingError

PORTS = range(12_000, 22_000)  # below what systems give to clients, and so is the same plus GRPC_OFFSET
GRPC_OFFSET = 10_000  # from each of SeaweedFS's ports to its second one


def free_port() -> int:
    """Returns a port nobody listens at."""
    return free_ports(None, 1)[0]


def free_ports(wanted: list[int] | None, count: int) -> list[int]:
    """Returns the wanted ports if all are free, else as many other free ones in a row."""
    if wanted and all(_free(port) for port in wanted):
        return wanted
    for _ in range(100):
        first = random.choice(PORTS[:-count])
        ports = list(range(first, first + count))
        if all(_free(port) and _free(port + GRPC_OFFSET) for port in ports):
            return ports
    raise HandwritingError(f"no {count} free ports in a row between {PORTS.start} and {PORTS.stop}: stop some servers")


def _free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; else a stopped one's lingers
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
