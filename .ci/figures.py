"""Prints the figures of a static program that the README has: python3 .ci/figures.py PROGRAM [RUNS]

Size of the program (the image is it and some 200 bytes); from start to `/ready`; resident memory idle, 5 s after the start;
from SIGTERM to the exit under load: four connections of `longshore send` at full speed into an NDJSON file, acks on.
Median, least and most of RUNS (5). Only programs of one run on one machine can be compared.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PORTS = (24924, 29600)
CONFIG = """
[node]
data_dir = "{dir}/data"
[inputs.apps]
type = "forward"
listen = "tcp://127.0.0.1:{0}"
[sinks.out]
type = "file"
path = "{dir}/out.ndjson"
[telemetry]
listen = "127.0.0.1:{1}"
"""


def ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[1]}/ready", timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def run(program: str) -> tuple[float, float, float, int]:
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "longshore.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(*PORTS, dir=folder))
        with open(os.path.join(folder, "log"), "w", encoding="utf-8") as log:
            began = time.monotonic()
            node = subprocess.Popen([program, "run", "--config", config], stdin=subprocess.DEVNULL, stderr=log)
            while not ready():
                if node.poll() is not None or time.monotonic() - began > 30:
                    raise SystemExit(open(os.path.join(folder, "log"), encoding="utf-8").read())
                time.sleep(0.001)
            start = time.monotonic() - began
            time.sleep(5)
            with open(f"/proc/{node.pid}/status", encoding="utf-8") as status:
                resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024
            words = ["send", "--to", f"127.0.0.1:{PORTS[0]}", "--connections", "4", "--count", "100000000"]
            load = subprocess.Popen([program, *words], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(3)
            told = time.monotonic()
            node.send_signal(signal.SIGTERM)
            code = node.wait(60)
            stop = time.monotonic() - told
            load.kill()
            load.wait()
        return start * 1e3, resident, stop * 1e3, code


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    program = os.path.abspath(sys.argv[1])
    runs = [run(program) for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 5)]
    print(f"size                    {os.path.getsize(program) / 1e6:.1f} MB")
    for at, (what, unit) in enumerate([("start to ready", "ms"), ("resident, idle", "MiB"), ("SIGTERM to exit, load", "ms")]):
        values = [figures[at] for figures in runs]
        print(f"{what:<23} {statistics.median(values):.1f} {unit} ({min(values):.1f} to {max(values):.1f}, {len(values)} runs)")
    print(f"exit codes              {sorted({figures[3] for figures in runs})}, load average {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
