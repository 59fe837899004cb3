"""Sends records over TLS with Python's ssl and a hand-written shared-key handshake; every frame waits for its ack.

usage: python_tls.py HOST PORT COUNT CA KEY        (only the standard library)
"""

import hashlib
import os
import socket
import ssl
import sys


def text(data):
    if isinstance(data, str):
        data = data.encode()
    return (bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xd9" + bytes([len(data)])) + data


def take(stream):
    data = b""
    while not data:
        data = stream.recv(4096)
        if not data:
            raise SystemExit("the receiver closed")
    return data


def value_of(data, name):
    """The str or bin after the str `name`."""
    at = data.index(text(name)) + len(text(name))
    head = data[at]
    if 0xA0 <= head < 0xC0:
        return data[at + 1 : at + 1 + (head & 31)]
    assert head in (0xC4, 0xD9), hex(head)
    return data[at + 2 : at + 2 + data[at + 1]]


def main():
    host, port, count, ca, key = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5].encode()
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    raw = socket.create_connection((host, port), timeout=60)
    stream = context.wrap_socket(raw)
    helo = take(stream)
    assert helo.startswith(b"\x92\xa4HELO"), helo
    nonce, salt, name = value_of(helo, "nonce"), os.urandom(16), b"python.example"
    digest = hashlib.sha512(salt + name + nonce + key).hexdigest()
    stream.sendall(b"\x96" + text("PING") + text(name) + b"\xc4\x10" + salt + text(digest) + text("") + text(""))
    pong = take(stream)
    assert pong.startswith(b"\x95\xa4PONG\xc3"), pong
    server = value_of(pong[7:], "")
    assert hashlib.sha512(salt + server + nonce + key).hexdigest().encode() in pong
    for seq in range(count):
        chunk = f"chunk-{seq}"
        record = b"\x81" + text("seq") + b"\xcd" + seq.to_bytes(2, "big")
        stream.sendall(b"\x94" + text("py.tls") + b"\xce\x65\x53\xf1\x00" + record + b"\x81" + text("chunk") + text(chunk))
        expected = b"\x81" + text("ack") + text(chunk)
        got = take(stream)
        assert got == expected, (got, expected)
    print(f"sent and acked {count} records over {stream.version()}")


main()
