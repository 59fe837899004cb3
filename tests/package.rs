//! What is shipped beside the image: the Debian package, installed, upgraded, removed and purged in a root of Debian's own
//! files; and the list of dependencies that scanners read out of the program.
//!
//! `LONGSHORE_DEB` names the package, `LONGSHORE_PROGRAM` the static program, `LONGSHORE_SBOM` the CycloneDX document (`.ci/run`
//! makes them). systemd does not run in
//! such a root: what the maintainer scripts do about the service is asserted by a stand-in for `systemctl`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::records::files_under;
use crate::harness::{PATIENCE, Spawned, folder, run_command, skip, told, wait_for};

fn given(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        skip(&format!("no {variable}: docs/production.md has the command that makes it"));
    }
    path
}

/// A root with what maintainer scripts need: a shell, `rm`, `dpkg`, and the libraries of each.
fn root(dir: &Path) {
    let mut files = vec![];
    let programs = [
        "/bin/sh",
        "/bin/rm",
        "/bin/cat",
        "/usr/bin/dpkg",
        "/usr/bin/dpkg-query",
        "/usr/bin/dpkg-deb",
        "/usr/bin/dpkg-split",
        "/bin/tar",
        "/usr/bin/diff",
    ];
    for program in programs {
        files.push(program.to_owned());
        let output = run_command(Command::new("ldd").arg(program), b"");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        files.extend(text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    for folder in [
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "var/lib/dpkg/triggers",
        "run/systemd/system",
        "tmp",
        "etc",
        "sbin",
    ] {
        fs::create_dir_all(dir.join(folder)).expect("writable");
    }
    for file in files {
        let to = dir.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a parent")).expect("writable");
        fs::copy(&file, &to).expect("Debian's own file");
    }
    fs::write(dir.join("var/lib/dpkg/status"), "").expect("writable");
    fs::write(dir.join("var/lib/dpkg/available"), "").expect("writable");
    let script = |path: &str, text: &str| {
        fs::write(dir.join(path), text).expect("writable");
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(0o755)).expect("ours");
    };
    script("bin/systemctl", "#!/bin/sh\necho \"$@\" >>/tmp/systemctl\n");
    for tool in ["sbin/ldconfig", "sbin/start-stop-daemon"] {
        script(tool, "#!/bin/sh\n");
    }
}

/// All lines of the archive that the package's configuration writes.
fn shipped(data: &Path) -> String {
    let archives = files_under(&data.join("logs"));
    let read = |path: &PathBuf| zstd::decode_all(fs::File::open(path).expect("readable")).unwrap_or_default();
    archives.iter().map(|path| String::from_utf8_lossy(&read(path)).into_owned()).collect()
}

/// Starts the installed program as the unit does, with its own configuration, in a network namespace of its own since ports
/// are fixed: it checks the configuration, gets ready, ships a container's line, and ends in order.
fn serve(root: &Path, data: &Path) {
    let id = "c0ffee".repeat(11)[..64].to_owned();
    let container = root.join("var/lib/docker/containers").join(&id);
    fs::create_dir_all(&container).expect("writable");
    let line = "{\"log\":\"of the package\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-23T10:00:00.000000001Z\"}\n";
    fs::write(container.join(format!("{id}-json.log")), line).expect("writable");
    let log = root.join("tmp/log");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "/bin/busybox ip link set lo up && exec chroot \"$0\" /usr/bin/longshore run --config /etc/longshore/longshore.toml"]);
    command.arg(root).stderr(fs::File::create(&log).expect("writable"));
    let mut service = Spawned::start(&mut command);
    let told_so_far = || fs::read_to_string(&log).unwrap_or_default();
    let pid = service.0.id().to_string();
    wait_for("readiness", PATIENCE, || {
        let mut ask = Command::new("nsenter");
        ask.args(["--net", "--target", &pid, "chroot"]).arg(root);
        let output = run_command(ask.args(["/usr/bin/longshore", "healthcheck", "--ready"]), b"");
        output.status.success()
    });
    // The archive's frames end with a stop.
    wait_for("the file that the line goes to", PATIENCE, || {
        data.join("logs").exists() && !files_under(&data.join("logs")).is_empty()
    });
    assert_eq!(service.stop(), Some(0), "{}", told_so_far());
    let shipped = shipped(data);
    assert!(shipped.contains("of the package"), "{shipped}\n{}", told_so_far());
}

#[test]
fn the_package_installs_upgrades_and_removes_and_keeps_data_until_a_purge() {
    let Some(package) = given("LONGSHORE_DEB") else { return };
    if !rustix::process::geteuid().is_root() {
        skip("dpkg needs root");
        return;
    }
    let dir = folder();
    let root_dir = dir.path().join("root");
    root(&root_dir);
    fs::copy(&package, root_dir.join("tmp/longshore.deb")).expect("the package is there");
    let within = |words: &[&str]| {
        let path = "/usr/sbin:/usr/bin:/sbin:/bin";
        let output = run_command(Command::new("chroot").arg(&root_dir).args(words).env("PATH", path), b"");
        assert!(output.status.success(), "{words:?}: {}", told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told_systemd = || {
        let text = fs::read_to_string(root_dir.join("tmp/systemctl")).unwrap_or_default();
        let _ = fs::remove_file(root_dir.join("tmp/systemctl"));
        text
    };
    let mode = |path: &str| fs::metadata(root_dir.join(path)).expect("it is there").permissions().mode() & 0o7777;

    within(&["dpkg", "--install", "/tmp/longshore.deb"]);
    assert_eq!(told_systemd(), "--system daemon-reload\nenable longshore.service\nrestart longshore.service\n");
    assert!(
        within(&["/usr/bin/longshore", "--version"]).starts_with(&format!("longshore {}", env!("CARGO_PKG_VERSION")))
    );
    within(&["/usr/bin/longshore", "check", "/etc/longshore/longshore.toml"]);
    assert_eq!((mode("usr/bin/longshore"), mode("etc/longshore/longshore.toml")), (0o755, 0o644));
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/longshore.service");
    let installed = root_dir.join("lib/systemd/system/longshore.service");
    assert_eq!(fs::read(&installed).expect("installed"), fs::read(unit).expect("it is there"));
    let contents = within(&["dpkg", "--listfiles", "longshore"]);
    for file in ["/usr/share/doc/longshore/copyright", "/usr/share/doc/longshore/config.example.toml"] {
        assert!(contents.lines().any(|line| line == file), "{contents}");
    }

    // What the service does with the package's own configuration, and what it leaves. systemd's folder is a link to a private
    // one; so is this.
    let data = root_dir.join("var/lib/private/longshore");
    fs::create_dir_all(&data).expect("writable");
    std::os::unix::fs::symlink("private/longshore", root_dir.join("var/lib/longshore")).expect("writable");
    serve(&root_dir, &data);
    let kept = fs::read(data.join("checkpoints")).expect("where the container's log was left");

    // A setting of the administrator's.
    let config = root_dir.join("etc/longshore/longshore.toml");
    let text = fs::read_to_string(&config).expect("text") + "# mine\n";
    fs::write(&config, &text).expect("writable");

    within(&["dpkg", "--install", "/tmp/longshore.deb"]);
    assert!(!told_systemd().contains("stop"), "an upgrade restarts once");
    assert_eq!(fs::read_to_string(&config).expect("text"), text, "an upgrade leaves the configuration");

    within(&["dpkg", "--remove", "longshore"]);
    assert_eq!(told_systemd(), "stop longshore.service\ndisable longshore.service\n--system daemon-reload\n");
    assert!(!root_dir.join("usr/bin/longshore").exists() && !installed.exists());
    assert_eq!(fs::read(data.join("checkpoints")).expect("data stays"), kept);
    assert!(!shipped(&data).is_empty(), "and what was shipped to it");
    assert_eq!(fs::read_to_string(&config).expect("the configuration stays"), text);

    within(&["dpkg", "--purge", "longshore"]);
    assert!(!data.exists() && !config.exists(), "a purge takes both");
}

#[test]
fn the_program_carries_the_list_of_its_dependencies() {
    let Some(program) = given("LONGSHORE_PROGRAM") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/sbom.py");
    let output = run_command(Command::new("python3").arg(&script).arg("show").arg(&program), b"");
    assert!(output.status.success(), "{}", told(&output));
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = list["packages"].as_array().expect("a list");
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("it is there");
    for package in packages {
        let (name, version) =
            (package["name"].as_str().expect("a name"), package["version"].as_str().expect("a version"));
        assert!(
            lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")),
            "{name} {version} is not locked"
        );
        for needed in package["dependencies"].as_array().into_iter().flatten() {
            assert!((needed.as_u64().expect("an index") as usize) < packages.len());
        }
    }
    let has = |name: &str| packages.iter().find(|package| package["name"] == name);
    assert_eq!(packages[0]["name"], "longshore");
    assert_eq!(packages[0]["root"], true);
    assert!(has("tokio").is_some_and(|tokio| tokio.get("kind").is_none()), "built in");
    assert!(has("criterion").is_none() && has("proptest").is_none(), "tools of the tests are not in the program");
}

/// The document that is published beside the program names what is embedded in it, and nothing else.
#[test]
fn the_cyclonedx_document_is_the_list_in_the_program() {
    let (Some(program), Some(document)) = (given("LONGSHORE_PROGRAM"), given("LONGSHORE_SBOM")) else { return };
    let document: Value = serde_json::from_slice(&fs::read(document).expect("readable")).expect("JSON");
    assert_eq!((&document["bomFormat"], &document["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let main = &document["metadata"]["component"];
    assert_eq!((&main["name"], &main["version"]), (&"longshore".into(), &env!("CARGO_PKG_VERSION").into()));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/sbom.py");
    let output = run_command(Command::new("python3").arg(&script).arg("show").arg(&program), b"");
    let embedded: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let name = |package: &Value| {
        let text = |key: &str| package[key].as_str().expect("a text").to_owned();
        format!("pkg:cargo/{}@{}", text("name"), text("version"))
    };
    let mut embedded: Vec<String> = embedded["packages"].as_array().expect("a list").iter().map(name).collect();
    let mut named = vec![name(main)];
    for component in document["components"].as_array().expect("a list") {
        assert_eq!(component["purl"], name(component).as_str());
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        named.push(name(component));
    }
    embedded.sort();
    named.sort();
    assert!(embedded.len() > 50);
    assert_eq!(named, embedded);
    let known = |reference: &Value| named.iter().any(|name| reference == name.as_str());
    for edge in document["dependencies"].as_array().expect("a list") {
        assert!(known(&edge["ref"]) && edge["dependsOn"].as_array().expect("a list").iter().all(known), "{edge}");
    }
}
