//! The service manager's side: what systemd is told, and the unit that the package installs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::engine::has_program;
use crate::harness::{folder, node, run_command, skip, told};

/// The next message that holds this word.
fn next(socket: &UnixDatagram, word: &str) -> String {
    let until = Instant::now() + Duration::from_secs(30);
    let mut block = [0; 4096];
    while Instant::now() < until {
        let Ok(len) = socket.recv(&mut block) else { continue };
        let text = String::from_utf8_lossy(&block[..len]).into_owned();
        if text.lines().any(|line| line == word) {
            return text;
        }
    }
    panic!("the service manager never heard {word}");
}

#[test]
fn the_service_manager_hears_ready_alive_reloading_and_stopping() {
    let dir = folder();
    let path = dir.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let body = "[inputs.in]\ntype = \"forward\"\nlisten = \"unix:///nowhere\"\n[sinks.out]\ntype = \"stdout\"\n"
        .replace("/nowhere", &dir.path().join("f.sock").display().to_string());
    let words = ["env", &format!("NOTIFY_SOCKET={}", path.display()), "WATCHDOG_USEC=200000"];
    let mut node = node(dir.path(), &body).under(&words).start();
    next(&socket, "READY=1");
    next(&socket, "WATCHDOG=1");
    next(&socket, "WATCHDOG=1");
    node.signal(Signal::HUP);
    assert!(next(&socket, "RELOADING=1").contains("MONOTONIC_USEC="), "systemd asks for the time with it");
    next(&socket, "READY=1");
    node.signal(Signal::TERM);
    next(&socket, "STOPPING=1");
    assert_eq!(node.wait_exit(Duration::from_secs(30)), 0, "{}", node.log());
}

#[test]
fn a_data_folder_that_can_not_be_written_says_whose_it_is_and_what_to_do() {
    if !rustix::process::geteuid().is_root() {
        skip("only root can become another user");
        return;
    }
    let dir = folder();
    let body = "[inputs.in]\ntype = \"stdin\"\n[sinks.out]\ntype = \"stdout\"\n";
    fs::create_dir(dir.path().join("data")).expect("writable");
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    open(dir.path());
    let other = ["setpriv", "--reuid", "65532", "--regid", "65532", "--clear-groups"];
    let mut node = node(dir.path(), body).under(&other).without_waiting().start();
    assert_eq!(node.wait_exit(Duration::from_secs(30)), 1);
    let log = node.log();
    assert!(log.contains("belongs to uid 0, longshore runs as 65532") && log.contains("chown -R 65532"), "{log}");
}

#[test]
fn the_unit_is_valid_and_sandboxed() {
    if !has_program("systemd-analyze") {
        skip("no systemd-analyze: Debian's package systemd");
        return;
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/longshore.service");
    // Exposure of 2.0 at most, on systemd's own scale of 0 to 10.
    let security = ["security", "--offline=true", "--no-pager", "--threshold=20"];
    let output = run_command(Command::new("systemd-analyze").args(security).arg(&unit), b"");
    assert!(output.status.success(), "{}", told(&output));

    // `verify` wants to find the programs that the unit names: those of the build stand in.
    let dir = folder();
    let text = fs::read_to_string(&unit).expect("it is there");
    let copy = dir.path().join("longshore.service");
    fs::write(&copy, text.replace("/usr/bin/longshore", crate::harness::PROGRAM)).expect("writable");
    let socket = dir.path().join("longshore.socket");
    fs::copy(unit.with_extension("socket"), &socket).expect("it is there");
    let output = run_command(Command::new("systemd-analyze").args(["verify", "--man=no"]).args([&copy, &socket]), b"");
    let complaints: Vec<String> =
        told(&output).lines().filter(|l| l.contains("longshore")).map(str::to_owned).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}
