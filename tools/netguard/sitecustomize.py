"""Refuse every connection but loopback ones: what tools/offline.py falls back on where no network namespace can be made."""

import ipaddress
import socket

_socket, _getaddrinfo = socket.socket, socket.getaddrinfo
LOCAL = {"", "localhost", "ip6-localhost", None, b"localhost"}


def _refuse_unless_loopback(address):
    host = address[0] if isinstance(address, tuple) else None
    if host in LOCAL or isinstance(host, int):  # a Unix socket's path, a netlink address
        return
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise OSError(101, f"network is blocked (tools/netguard): {host}")


class GuardedSocket(_socket):
    def connect(self, address):
        _refuse_unless_loopback(address)
        return super().connect(address)

    def connect_ex(self, address):
        try:
            _refuse_unless_loopback(address)
        except OSError as err:
            return err.errno
        return super().connect_ex(address)

    def sendto(self, data, *rest):
        _refuse_unless_loopback(rest[-1])
        return super().sendto(data, *rest)


def getaddrinfo(host, *args, **kwargs):
    _refuse_unless_loopback((host,))
    return _getaddrinfo(host, *args, **kwargs)


socket.socket = socket.SocketType = GuardedSocket
socket.getaddrinfo = getaddrinfo
