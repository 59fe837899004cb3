"""Sends numbered records with the published fluent-logger of PyPI, the way applications use it.

usage: python_client.py HOST PORT COUNT

Three senders, COUNT records each, tags py.sync, py.nano and py.async: whole seconds, EventTime, and the background
thread with its queue. This client never asks for an ack; closing it flushes.
"""

import sys

from fluent import asyncsender, sender


def main() -> int:
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    senders = [
        ("sync", sender.FluentSender("py", host=host, port=port)),
        ("nano", sender.FluentSender("py", host=host, port=port, nanosecond_precision=True)),
        ("async", asyncsender.FluentSender("py", host=host, port=port, queue_maxsize=0)),
    ]
    failed = 0
    for label, logger in senders:
        for seq in range(count):
            record = {"seq": seq, "text": "grüße \u2713", "nested": {"list": [1, 2.5, None, True]}, "big": 2**63}
            if not logger.emit(label, record):
                failed += 1
                print(f"{label} {seq}: {logger.last_error}", file=sys.stderr)
                logger.clear_last_error()
        logger.close()
    print(f"sent {3 * count - failed} records")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
