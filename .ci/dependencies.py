"""Checks the locked dependencies against deny.toml without cargo-deny: licences, sources, banned crates, and the budget.

Prints one line; exit 1 and a line for each finding otherwise. cargo-deny, where installed, checks the same file fully.
"""

import json
import re
import subprocess
import sys
import tomllib

CRATES_MAX = 200


def allowed(expression: str, licences: set[str]) -> bool:
    """Whether an SPDX expression can be met with these licences."""
    words = re.findall(r"\(|\)|[^\s()/]+|/", expression)
    python = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "WITH":
            # The exception belongs to the licence before it: both together are in the list, or the licence alone is.
            skip = True
        elif word in ("(", ")"):
            python.append(word)
        elif word in ("OR", "/"):
            python.append("or")
        elif word == "AND":
            python.append("and")
        else:
            python.append(str(word in licences))
    return bool(eval(" ".join(python), {"__builtins__": {}}))  # only True, False, and, or, parentheses


def main() -> int:
    with open("deny.toml", "rb") as file:
        rules = tomllib.load(file)
    metadata = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--locked", "--format-version", "1"], check=True, capture_output=True, text=True
        ).stdout
    )
    tree = subprocess.run(
        ["cargo", "tree", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    built = {line.replace(" (*)", "").replace(" (proc-macro)", "") for line in tree.splitlines() if line.strip()}
    licences = set(rules["licenses"]["allow"])
    banned = {entry["crate"] for entry in rules["bans"]["deny"]}
    findings = []
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if package["source"] is None:
            continue
        if not package["source"].startswith("registry+"):
            findings.append(f"{name}: comes from {package['source']}")
        if package["name"] in banned:
            findings.append(f"{name}: is banned in deny.toml")
        if not package["license"] or not allowed(package["license"], licences):
            findings.append(f"{name}: licence {package['license']!r} is not in deny.toml")
    if len(built) > CRATES_MAX:
        findings.append(f"{len(built)} crates in the default build, more than {CRATES_MAX}")
    for finding in findings:
        print(finding)
    print(f"{len(metadata['packages'])} packages checked, {len(built)} crates in the default build (at most {CRATES_MAX})")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
