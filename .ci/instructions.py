"""Instructions a record of the whole program, counted by callgrind: repeatable however busy the machine is.

    python3 .ci/instructions.py PROGRAM            compares with .ci/instructions.txt; exit 1 above 3 % more
    python3 .ci/instructions.py PROGRAM --record   writes that file

What is counted: `longshore bench WORK` drives PROGRAM, started under callgrind, with two numbers of records; the difference
is free of what it costs to start and stop, and of the kernel. What libc copies, clears and searches is counted apart: by
vectors of one width, whatever the processor's caches are (TUNABLES), some 30 instructions for a line of 341 bytes. It is
little beside the rest, so a line that is copied once more would not show there; and it differs between runs by up to a
tenth (how full a batch is), so a fifth more fails, and 3 % more of both together. The figures hold for one compiler, architecture and width of vectors
(libraries choose by it): elsewhere they are printed, and nothing is compared.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

WORKS = ["docker-file", "docker-http", "line-file", "line-http", "forward-file", "message-file", "regex-file"]
FEW, MANY = 20_000, 80_000
# Our own and the libraries', libc's copying.
ALLOWED = [1.03, 1.2]
# No `rep movsb`, no stores past the caches: both are chosen by the processor, and by the caches' size.
SWITCHES = ["rep_movsb_threshold", "rep_stosb_threshold", "non_temporal_threshold"]
TUNABLES = ":".join(f"glibc.cpu.x86_{switch}=0x10000000" for switch in SWITCHES)
RECORDED = Path(__file__).with_name("instructions.txt")
LIBC = re.compile(r"_*(mem(cpy|move|set|chr|rchr|cmp|mem|pcpy)|str\w+|bcmp)(_\w+)*$")


def costs(path):
    """Exclusive instructions by function, from callgrind's file (names are compressed: `fn=(7) name`, then `fn=(7)`)."""
    names, sums, function, skip = {}, {}, "", False
    for line in path.open(errors="replace"):
        if line.startswith("fn="):
            number, _, name = line[3:].strip().partition(" ")
            if name:
                names[number] = name
            function = names.get(number, number)
        elif line.startswith("cfn="):
            number, _, name = line[4:].strip().partition(" ")
            if name:
                names[number] = name
        elif line.startswith("calls="):
            # The next line is what the called function cost, which is counted there.
            skip = True
        elif line[:1] in "0123456789+-*":
            if skip:
                skip = False
                continue
            sums[function] = sums.get(function, 0) + int(line.split()[-1])
    return sums


def instructions(program, work, records, folder):
    """Instructions of the program for so many records: without libc's copying, and that."""
    out = folder / f"{work}.{records}"
    script = folder / f"{work}.{records}.sh"
    script.write_text(
        "#!/bin/sh\n"
        f'GLIBC_TUNABLES={TUNABLES} exec valgrind --tool=callgrind --log-file=/dev/null --callgrind-out-file={out} "{program}" "$@"\n'
    )
    script.chmod(0o755)
    command = [program, "bench", work, "--records", str(records), "--repeats", "1", "--seconds", "0"]
    bench = subprocess.run(command + ["--peer", f"longshore={script}"], capture_output=True, text=True)
    if bench.returncode != 0:
        sys.exit(f"instructions: {' '.join(command)} failed under valgrind:\n{bench.stdout}{bench.stderr}")
    by_function = costs(out)
    copying = sum(cost for name, cost in by_function.items() if LIBC.match(name.split("'")[0]))
    return sum(by_function.values()) - copying, copying


def conditions():
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    wide = "avx2" if " avx2 " in Path("/proc/cpuinfo").read_text() else "plain"
    return f"rustc-{version}-{platform.machine()}-{wide}"


def main():
    program = os.path.abspath(sys.argv[1])
    recorded = {}
    if RECORDED.exists():
        lines = [line.split() for line in RECORDED.read_text().splitlines() if line[:1] not in ("", "#")]
        recorded = {name: figures for name, *figures in lines}
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for work in WORKS:
            few, many = (instructions(program, work, records, Path(folder)) for records in (FEW, MANY))
            figures[work] = [round((of_many - of_few) / (MANY - FEW)) for of_few, of_many in zip(few, many)]
            own, copying = figures[work]
            was = " and ".join(recorded.get(work, ["nothing"]))
            print(f"{work}: {own} instructions a record and {copying} for copying it, recorded: {was}")
    if "--record" in sys.argv:
        head = "# Instructions a record, and for copying it, by .ci/instructions.py. Who changes one says in the commit why.\n"
        lines = [f"conditions {conditions()}"] + [f"{work} {own} {copying}" for work, (own, copying) in figures.items()]
        RECORDED.write_text(head + "\n".join(lines) + "\n")
        return
    if not recorded:
        sys.exit(f"instructions: no {RECORDED.name}: make one with `python3 .ci/instructions.py PROGRAM --record`")
    if recorded.get("conditions") != [conditions()]:
        print(f"instructions: NOT COMPARED: recorded with {recorded.get('conditions')}, this is {conditions()}")
        return

    def is_worse(work):
        was = [int(count) for count in recorded.get(work, [0, 0])]
        limits = [count * allowed for count, allowed in zip(was, ALLOWED, strict=True)]
        return any(count > limit for count, limit in zip(figures[work], limits)) or sum(figures[work]) > sum(was) * ALLOWED[0]

    worse = [work for work in figures if is_worse(work)]
    if worse:
        sys.exit(
            f"instructions: {', '.join(worse)} cost more than 3 % (copying alone: 20 %) above the record; make it cheaper, or record it with "
            f"`python3 .ci/instructions.py PROGRAM --record` and say why in the same commit"
        )


main()
