"""The dependencies of a build, from Cargo.lock, for scanners of images and packages.

    python3 .ci/sbom.py embed PROGRAM       adds them to a built program as the section `.dep-v0`, in the format of
                                            cargo-auditable, which Trivy, Grype and Docker Scout read; needs objcopy
    python3 .ci/sbom.py show PROGRAM        prints what is embedded there
    python3 .ci/sbom.py cyclonedx           prints a CycloneDX 1.5 document

What counts is what the program for this target is built of: normal and build dependencies, no dev-dependencies.
"""

import json
import subprocess
import sys
import tempfile
import zlib

SECTION = ".dep-v0"


def host() -> str:
    told = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    return next(line.removeprefix("host: ") for line in told.splitlines() if line.startswith("host: "))


def packages() -> tuple[list[dict], dict[str, dict]]:
    """Each package of the build with its kind and the ids that it depends on, the root first; and cargo's metadata."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host()]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    details = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    kinds = {root: "runtime"}
    edges: dict[str, set[str]] = {}
    queue = [root]
    while queue:
        parent = queue.pop()
        edges[parent] = set()
        for dependency in nodes[parent]["deps"]:
            links = {kind["kind"] for kind in dependency["dep_kinds"]} - {"dev"}
            if not links:
                continue
            child = dependency["pkg"]
            edges[parent].add(child)
            macro = any("proc-macro" in target["kind"] for target in details[child]["targets"])
            runtime = kinds[parent] == "runtime" and None in links and not macro
            kind = "runtime" if runtime else "build"
            # Runtime wins where a package is both, and then its own dependencies have to be looked at again.
            if kinds.get(child) in (kind, "runtime"):
                continue
            kinds[child] = kind
            queue.append(child)
    order = sorted(edges, key=lambda id: (id != root, details[id]["name"], details[id]["version"]))
    return [{"id": id, "kind": kinds[id], "needs": sorted(edges[id], key=order.index)} for id in order], details


def auditable() -> bytes:
    found, details = packages()
    place = {package["id"]: number for number, package in enumerate(found)}
    listed = []
    for package in found:
        about = details[package["id"]]
        entry = {"name": about["name"], "version": about["version"]}
        entry["source"] = "crates.io" if about["source"] else "local"
        if package["kind"] == "build":
            entry["kind"] = "build"
        if package["needs"]:
            entry["dependencies"] = sorted(place[id] for id in package["needs"])
        if not about["source"]:
            entry["root"] = True
        listed.append(entry)
    return zlib.compress(json.dumps({"packages": listed}, separators=(",", ":")).encode(), 9)


def cyclonedx() -> str:
    found, details = packages()
    reference = {package["id"]: f"pkg:cargo/{details[package['id']]['name']}@{details[package['id']]['version']}" for package in found}

    def component(package: dict) -> dict:
        about = details[package["id"]]
        made = {
            "type": "library" if about["source"] else "application",
            "bom-ref": reference[package["id"]],
            "name": about["name"],
            "version": about["version"],
            "purl": reference[package["id"]],
            "scope": "required" if package["kind"] == "runtime" else "excluded",
        }
        if about["license"]:
            made["licenses"] = [{"expression": about["license"].replace("/", " OR ")}]
        return made

    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(found[0])},
        "components": [component(package) for package in found[1:]],
        "dependencies": [
            {"ref": reference[package["id"]], "dependsOn": [reference[id] for id in package["needs"]]} for package in found
        ],
    }
    return json.dumps(document, indent=1)


def embed(program: str) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(auditable())
        file.flush()
        # Removed first, so that a second run replaces it.
        subprocess.run(["objcopy", "--remove-section", SECTION, program], check=True)
        section = ["--add-section", f"{SECTION}={file.name}", "--set-section-flags", f"{SECTION}=noload,readonly"]
        subprocess.run(["objcopy", *section, program], check=True)


def show(program: str) -> str:
    with tempfile.NamedTemporaryFile() as file:
        command = ["objcopy", "--dump-section", f"{SECTION}={file.name}", program, "/dev/null"]
        subprocess.run(command, check=True)
        return zlib.decompress(file.read()).decode()


def main(words: list[str]) -> int:
    match words:
        case ["embed", program]:
            embed(program)
        case ["show", program]:
            print(show(program))
        case ["cyclonedx"]:
            print(cyclonedx())
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
