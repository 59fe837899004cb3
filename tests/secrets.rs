//! Secrets: where they may come from, what is said when one is missing, empty or odd, that a replaced one is used without a
//! restart, and that none of them is anywhere where others can read it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::http::{Answer, Server};
use crate::harness::records::files_under;
use crate::harness::{PROGRAM, folder, free_port, node, run_command, told};

/// Part of every secret here: nothing that longshore says may hold it.
const CANARY: &str = "canary-7f1c0ffee5";

/// Puts a file in the place of another in one step, as container platforms do.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).expect("writable");
    fs::rename(&next, path).expect("ours");
}

/// `check` of a sink with this token: exit code and everything it said.
fn check(dir: &Path, variable: Option<&Path>) -> (Option<i32>, String) {
    let config = dir.join("check.toml");
    let text = format!(
        "[node]\nsecrets = {:?}\n[inputs.in]\ntype = \"stdin\"\n[sinks.out]\ntype = \"http\"\nurl = \"https://logs.example.com/\"\ntoken = \"secret:ingest_token\"\n",
        dir.join("secrets")
    );
    fs::write(&config, text).expect("writable");
    let mut command = Command::new(PROGRAM);
    command.args(["check", "--explain"]).arg(&config).env_remove("INGEST_TOKEN_FILE");
    if let Some(path) = variable {
        command.env("INGEST_TOKEN_FILE", path);
    }
    let output = run_command(&mut command, b"");
    (output.status.code(), told(&output))
}

#[test]
fn a_secret_that_is_missing_empty_or_no_text_is_one_clear_line_and_exit_code_1() {
    let dir = folder();
    let (secrets, elsewhere) = (dir.path().join("secrets"), dir.path().join("elsewhere"));
    fs::create_dir(&secrets).expect("writable");
    let file = secrets.join("ingest_token");
    let wrong = |variable: Option<&Path>, parts: &[&str]| {
        let (code, text) = check(dir.path(), variable);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("check.toml:8:9") && text.matches("error:").count() == 1, "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in {text}");
        assert!(!text.contains(CANARY), "{text}");
    };
    wrong(None, &["no secret `ingest_token`", "secrets/ingest_token", "INGEST_TOKEN_FILE"]);
    wrong(Some(&elsewhere), &["elsewhere", "No such file"]);
    fs::write(&file, "").expect("writable");
    wrong(None, &["secrets/ingest_token: it is empty; put the secret into the file"]);
    fs::write(&file, "\r\n\n").expect("writable");
    wrong(None, &["it is empty"]);
    fs::write(&file, [CANARY.as_bytes(), b"\xff\xfe"].concat()).expect("writable");
    wrong(None, &["it is not UTF-8; is it the right file?"]);
    fs::write(&file, CANARY.repeat(5000)).expect("writable");
    wrong(None, &["more than 64KiB"]);
    fs::write(&file, format!("{CANARY}\n{CANARY}\n")).expect("writable");
    wrong(None, &["it holds a line break"]);
    fs::remove_file(&file).expect("ours");
    fs::create_dir(&file).expect("writable");
    wrong(None, &["secrets/ingest_token: Is a directory"]);
    fs::remove_dir(&file).expect("ours");

    // A line break at the end is not part of it; the variable is for platforms without the folder.
    for (path, variable) in [(&file, None), (&elsewhere, Some(elsewhere.as_path()))] {
        fs::write(path, format!("{CANARY}\r\n")).expect("writable");
        let (code, text) = check(dir.path(), variable);
        assert_eq!(code, Some(0), "{text}");
        assert!(!text.contains(CANARY), "{text}");
        fs::remove_file(path).expect("ours");
    }
}

#[test]
fn a_replaced_token_is_used_without_a_restart_and_no_secret_is_ever_shown() {
    let dir = folder();
    let secrets = dir.path().join("secrets");
    fs::create_dir(&secrets).expect("writable");
    for (name, text) in [("token", "1"), ("key", "2"), ("shared", "3")] {
        fs::write(secrets.join(name), format!("{CANARY}-{text}\n")).expect("writable");
    }
    // The server repeats what it got in every answer, and turns the first token away from some time on.
    let changed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let turned = std::sync::Arc::clone(&changed);
    let server = Server::start(move |request, _| {
        let token = request.header("authorization").unwrap_or_default();
        let key = request.header("x-api-key").unwrap_or_default();
        let good = if turned.load(std::sync::atomic::Ordering::Relaxed) {
            token == format!("Bearer {CANARY}-4") && key == format!("{CANARY}-5")
        } else {
            token == format!("Bearer {CANARY}-1") && key == format!("{CANARY}-2")
        };
        // Of the shape that a server's complaint has: the log tells its beginning.
        match good {
            true => Answer::status(200),
            false => Answer(503, vec!["retry-after: 1".to_owned()], "no: canary-7f1c0ffee5-1 canary-7f1c0ffee5-2"),
        }
    });
    let forward = free_port();
    let body = format!(
        "[inputs.in]\ntype = \"forward\"\n[[inputs.in.listen]]\naddress = \"tcp://127.0.0.1:{forward}\"\nshared_key = \"secret:shared\"\n\
         [sinks.out]\ntype = \"http\"\nurl = {:?}\ntoken = \"secret:token\"\nheaders = {{ x-api-key = \"secret:key\" }}\nbatch = {{ size = \"1MiB\", wait = \"10ms\" }}\n",
        server.url()
    );
    let mut node =
        node(dir.path(), &body).with_node(&format!("secrets = {secrets:?}")).with_flag("--log-level=trace").start();
    let send = |key: &str, text: &str| {
        let file = dir.path().join("sender-key");
        fs::write(&file, key).expect("writable");
        let mut command = Command::new(PROGRAM);
        command.args(["send", "--to", &format!("127.0.0.1:{forward}"), "--shared-key-file"]).arg(&file);
        let output = run_command(&mut command, format!("{{\"msg\":\"{text}\"}}\n").as_bytes());
        (output.status.success(), told(&output))
    };
    let sent = send(&format!("{CANARY}-3"), "one");
    assert!(sent.0, "{}", sent.1);
    node.wait_for("the first record", |_| server.accepted().len() == 1);

    // A file that became empty changes nothing, and is said once.
    replace(&secrets.join("token"), "");
    std::thread::sleep(Duration::from_millis(1200));
    assert!(send(&format!("{CANARY}-3"), "two").0);
    node.wait_for("the second record", |_| server.accepted().len() == 2);
    node.wait_for("a word about the empty file", |node| node.log().contains("secrets/token: it is empty"));

    // The destination wants new ones, and the files get them a moment later.
    changed.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(send(&format!("{CANARY}-3"), "three").0);
    node.wait_for("a refusal", |_| server.requests().iter().any(|(_, status)| *status == 503));
    replace(&secrets.join("token"), &format!("{CANARY}-4\n"));
    replace(&secrets.join("key"), &format!("{CANARY}-5\n"));
    node.wait_for("the third record, with the new token", |_| server.accepted().len() == 3);

    // The listener's key too: the old one is refused from then on.
    replace(&secrets.join("shared"), &format!("{CANARY}-6\n"));
    node.wait_for("the new key", |node| node.log().contains("new shared keys or passwords are in use"));
    let refused = send(&format!("{CANARY}-3"), "never");
    assert!(!refused.0 && !refused.1.contains(CANARY), "{}", refused.1);
    let sent = send(&format!("{CANARY}-6"), "four");
    assert!(sent.0 && !sent.1.contains(CANARY), "{}", sent.1);
    node.wait_for("the fourth record", |_| server.accepted().len() == 4);

    let config = dir.path().join("longshore.toml");
    let explained = run_command(Command::new(PROGRAM).args(["check", "--explain"]).arg(&config), b"");
    let mut said = vec![told(&explained)];
    for path in ["/health", "/metrics", "/audit", "/ready", "/live"] {
        said.push(node.get(path).expect("an answer").1);
    }
    node.signal(Signal::TERM);
    assert_eq!(node.wait_exit(Duration::from_secs(40)), 0, "{}", node.log());
    said.push(node.log());
    for text in &said {
        assert!(!text.is_empty() && !text.contains(CANARY), "a secret is in: {text}");
    }
    // Nor in what it keeps: checkpoints, disk log, dead letters.
    let kept = files_under(&dir.path().join("data"));
    assert!(kept.iter().any(|path| path.ends_with("buffer/META")), "folders in it are looked at, too: {kept:?}");
    for path in kept.iter().filter(|path| path.is_file()) {
        let bytes = fs::read(path).expect("readable");
        assert!(!String::from_utf8_lossy(&bytes).contains(CANARY), "a secret is in {}", path.display());
    }
}

/// systemd's `LoadCredential`: a folder that only this service can read, named by a variable.
#[test]
fn credentials_of_systemd_are_secrets_and_files() {
    let dir = folder();
    let credentials = dir.path().join("credentials");
    fs::create_dir(&credentials).expect("writable");
    fs::write(credentials.join("ingest_token"), format!("{CANARY}\n")).expect("writable");
    for name in ["server.pem", "server.key"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name);
        fs::copy(fixture, credentials.join(name)).expect("it is there");
    }
    let server = Server::start(|request, _| {
        let good = request.header("authorization") == Some(&format!("Bearer {CANARY}"));
        Answer::status(if good { 200 } else { 401 })
    });
    fs::write(dir.path().join("app.log"), "one\n").expect("writable");
    let body = format!(
        "[inputs.in]\ntype = \"file\"\npaths = [{:?}]\n[inputs.apps]\ntype = \"forward\"\n\
         listen = [{{ address = \"tls://127.0.0.1:{}\", cert = \"${{CREDENTIALS_DIRECTORY}}/server.pem\", key = \"${{CREDENTIALS_DIRECTORY}}/server.key\" }}]\n\
         [sinks.out]\ntype = \"http\"\nurl = {:?}\ntoken = \"secret:ingest_token\"\n",
        dir.path().join("app.log"),
        free_port(),
        server.url()
    );
    let words = ["env", &format!("CREDENTIALS_DIRECTORY={}", credentials.display())];
    let mut node = node(dir.path(), &body).under(&words).start();
    node.wait_for("the record, with the token", |_| server.accepted().len() == 1);
    assert!(node.log().contains("tls=true"), "with the key and the certificate: {}", node.log());
    assert_eq!(node.stop(), 0, "{}", node.log());
    let config = dir.path().join("longshore.toml");
    let check = |variable: &Path| {
        let mut command = Command::new(PROGRAM);
        command.args(["check", "--explain"]).arg(&config).env("CREDENTIALS_DIRECTORY", variable);
        let output = run_command(&mut command, b"");
        (output.status.success(), told(&output))
    };
    let (good, text) = check(&credentials);
    assert!(good && !text.contains(CANARY), "{text}");
    fs::remove_file(credentials.join("ingest_token")).expect("ours");
    let (good, text) = check(&credentials);
    assert!(!good && text.contains(&format!("nor {}", credentials.join("ingest_token").display())), "{text}");
}

#[test]
fn the_forward_sink_uses_a_replaced_key_at_its_next_connection() {
    let dir = folder();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    for place in [&here, &there] {
        fs::create_dir_all(place.join("secrets")).expect("writable");
        fs::write(place.join("secrets/key"), format!("{CANARY}-1")).expect("writable");
    }
    let port = free_port();
    let receiver = format!(
        "[inputs.in]\ntype = \"forward\"\n[[inputs.in.listen]]\naddress = \"tcp://127.0.0.1:{port}\"\nshared_key = \"secret:key\"\n[sinks.out]\ntype = \"stdout\"\n"
    );
    let mut receiver = node(&there, &receiver).with_node(&format!("secrets = {:?}", there.join("secrets"))).start();
    let sender = format!(
        "[inputs.in]\ntype = \"file\"\npaths = [{:?}]\n[sinks.out]\ntype = \"forward\"\nservers = [\"tcp://127.0.0.1:{port}\"]\nshared_key = \"secret:key\"\nreconnect = \"0s\"\nbatch = {{ size = \"1MiB\", wait = \"10ms\" }}\n",
        dir.path().join("app.log")
    );
    let mut sender = node(&here, &sender).with_node(&format!("secrets = {:?}", here.join("secrets"))).start();
    fs::write(dir.path().join("app.log"), "one\n").expect("writable");
    receiver.wait_for("the first line", |node| node.stdout().contains("one"));
    for place in [&here, &there] {
        replace(&place.join("secrets/key"), &format!("{CANARY}-2"));
    }
    receiver.wait_for("the new key", |node| node.log().contains("new shared keys or passwords are in use"));
    fs::write(dir.path().join("app.log"), "one\ntwo\n").expect("writable");
    receiver.wait_for("the second line", |node| node.stdout().contains("two"));
    sender.stop_well();
    receiver.stop_well();
    assert!(!sender.log().contains(CANARY) && !receiver.log().contains(CANARY));
}

#[test]
fn a_crash_writes_no_core_dump_which_would_hold_the_secrets() {
    if !crate::harness::engine::has_program("prlimit") {
        crate::harness::skip("no prlimit: Debian's package util-linux");
        return;
    }
    let dir = folder();
    let body = "[inputs.in]\ntype = \"forward\"\nlisten = \"unix:///nowhere\"\n[sinks.out]\ntype = \"stdout\"\n"
        .replace("/nowhere", &dir.path().join("f.sock").display().to_string());
    // What a debugging session leaves behind: without limits.
    let mut node = node(dir.path(), &body).under(&["prlimit", "--core=1048576:1048576"]).start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.pid())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("Linux gives it");
    let soft: u64 = line.split_whitespace().nth(4).and_then(|number| number.parse().ok()).expect("a number");
    assert_eq!(soft, 1, "{line}");
    node.signal(Signal::ABORT);
    assert_eq!(node.wait_exit(crate::harness::PATIENCE), -6);
    let names = fs::read_dir(dir.path()).expect("ours").map(|entry| entry.expect("readable").file_name());
    let cores: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("core")).collect();
    assert!(cores.is_empty(), "{cores:?}");
}
