//! Disks that fail under the disk log: errors of single calls (injected by strace), a file system that is full. What was
//! acknowledged stays, nothing more is acknowledged meanwhile, readiness says so, and it goes on by itself afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::durable::{config, http_config};
use crate::full_disk::SmallDisk;
use crate::harness::engine::has_program;
use crate::harness::forward::{Client, map, message, option};
use crate::harness::http::{Answer, Server};
use crate::harness::records::{Numbers, files_under, records};
use crate::harness::sender::Senders;
use crate::harness::{Node, audit_closes, folder, free_port, node, run, skip};

fn assert_all_there(dir: &Path, sent: &BTreeMap<String, u64>) {
    let found = Numbers::of(&records(&dir.join("out.ndjson")), "p", "seq");
    assert!(found.missing(sent).is_empty(), "acknowledged and not there: {:?}", found.missing(sent));
}

/// The calls in the output of `strace -f`, where one that others came in between is on two lines.
fn calls_in(text: &str) -> Vec<String> {
    let (mut begun, mut calls) = (BTreeMap::new(), Vec::new());
    for line in text.lines() {
        let thread = line.split(' ').next().unwrap_or_default();
        if let Some(call) = line.strip_suffix("<unfinished ...>") {
            begun.insert(thread, call);
        } else if let Some((_, end)) = line.split_once(" resumed>") {
            calls.push(format!("{}{end}", begun.remove(thread).unwrap_or_default()));
        } else {
            calls.push(line.to_owned());
        }
    }
    calls
}

/// Runs a node under load while some of these calls fail so, and kills it; then without faults. Some of them are to reach a file of
/// that name. `counts`: the log counts them as failures of its disk.
fn with_failing(faults: &[(&str, &str, &str)], file: &str, counts: bool) {
    let dir = folder();
    let port = free_port();
    let calls: Vec<&str> = faults.iter().map(|(calls, ..)| *calls).collect();
    let trace = format!("trace={}", calls.join(","));
    let inject = |(calls, error, when): &(&str, &str, &str)| format!("inject={calls}:error={error}:when={when}");
    let injects: Vec<String> = faults.iter().map(inject).collect();
    let fault = injects.join(" ");
    let seen = dir.path().join("calls");
    let to = seen.to_str().expect("UTF-8");
    // With the names of descriptors; of a rename the names are all that there is.
    let strace = ["strace", "-D", "-f", "-y", "-qq", "-o", to, "-e", &trace];
    let strace = [&strace[..], &injects.iter().flat_map(|inject| ["-e", inject]).collect::<Vec<_>>()].concat();
    let mut first = node(dir.path(), &config(dir.path(), port)).under(&strace).start();
    let senders = Senders::start(port, 2, Duration::from_millis(20));
    let seen = || -> Vec<String> {
        let text = fs::read_to_string(&seen).unwrap_or_default();
        calls_in(&text).into_iter().filter(|call| call.contains(file)).collect()
    };
    let is_injected = |line: &String| line.contains("(INJECTED)");
    // Calls that succeed after one that failed: it goes on.
    first.wait_for(&format!("{fault}: a call for {file} that fails, and three that do not"), |_| {
        seen().iter().skip_while(|line| !is_injected(line)).filter(|line| !is_injected(line)).count() >= 3
    });
    let failed: Vec<String> = seen().into_iter().filter(is_injected).collect();
    let has_failed = |calls: &str| failed.iter().any(|line| calls.split(',').any(|call| line.contains(call)));
    assert!(calls.iter().all(|calls| has_failed(calls)), "{fault}: {failed:?}");
    let acked = senders.acked();
    first.wait_for(&format!("{fault}: acks between failures"), |_| senders.acked() > acked);
    // It lives. (The output's fdatasync may be hit, too: that asks for a restart.)
    let (status, why) = first.get("/live").expect("it lives");
    assert!(status == 200 || why.contains("sync failed"), "{fault}: {status} {why}{}", first.log());
    let failures = |node: &Node| node.metric("longshore_buffer_failures_total", &[]);
    if counts {
        first.wait_for(&format!("{fault}: a failure of the log"), |node| failures(node) > 0);
    } else {
        assert_eq!(failures(&first), 0, "{fault}");
    }
    let acked = senders.acked();
    first.kill();
    // And without faults: everything goes on from what is on the disk, whatever that is.
    let mut second = node(dir.path(), &config(dir.path(), port)).start();
    second.wait_for("the senders to go on", |_| senders.acked() > acked);
    let sent = senders.finish();
    second.wait_for("an empty backlog", |node| node.undelivered(&[]) == 0);
    second.stop_well();
    assert_all_there(dir.path(), &sent);
}

#[test]
fn failed_calls_of_the_disk_cost_nothing_that_was_acknowledged() {
    if !has_program("strace") {
        return skip("needs strace");
    }
    const WRITES: &str = "pwrite64,pwritev,pwritev2";
    const RENAMES: &str = "rename,renameat,renameat2";
    // The counter is per thread, so each is hit, the log's among them; `+` repeats it. Whether the log counts a failure: an
    // interrupted write is simply gone on with, an interrupted sync is not believed. Checkpoints are renamed at the start, and
    // after what changed could not be written. (An interrupted sync of theirs is begun again by `std`.)
    let changes = |error| ("fdatasync", error, "3+40");
    let faults = [
        (&[("fdatasync", "EIO", "3+9")][..], ".seg", true),
        (&[("fdatasync", "ENOSPC", "4+7")], ".seg", true),
        (&[("fdatasync", "EINTR", "3+5")], ".seg", true),
        (&[(WRITES, "EIO", "2+6")], ".seg", true),
        (&[(WRITES, "ENOSPC", "3+8")], ".seg", true),
        (&[(WRITES, "EINTR", "2+3")], ".seg", false),
        (&[changes("EIO")], "checkpoints.changes", true),
        (&[changes("ENOSPC"), (RENAMES, "EIO", "2+3")], "data/checkpoints", true),
        (&[changes("EIO"), (RENAMES, "ENOSPC", "2+3")], "data/checkpoints", true),
        (&[changes("EIO"), (RENAMES, "EINTR", "2+3")], "data/checkpoints", true),
    ];
    for (faults, file, counts) in faults {
        with_failing(faults, file, counts);
    }
}

#[test]
fn an_output_that_can_not_be_synced_holds_back_its_own_records_only_and_a_restart_gives_them_again() {
    if !has_program("strace") {
        return skip("needs strace");
    }
    let dir = folder();
    let port = free_port();
    let inside = |name: &str| dir.path().join(name);
    for name in ["a", "b"] {
        fs::write(inside(&format!("{name}.log")), "one\ntwo\n").expect("writable");
    }
    let of = |name: &str| {
        format!(
            "[inputs.f{name}]\ntype = \"file\"\npaths = [{:?}]\ntag = \"{name}\"\n\
             [sinks.{name}]\ntype = \"file\"\nmatch = \"{name}\"\npath = {:?}\n",
            inside(&format!("{name}.log")),
            inside(&format!("{name}.ndjson"))
        )
    };
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = \"tcp://127.0.0.1:{port}\"\n[buffer]\nsize = \"16MiB\"\n{}{}",
        of("a"),
        of("b")
    );
    let output = inside("a.ndjson");
    let output = output.to_str().expect("UTF-8");
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", output, "-e", "trace=fdatasync"];
    let strace = [&strace[..], &["-e", "inject=fdatasync:error=EIO"]].concat();
    let mut first = node(dir.path(), &body).under(&strace).without_waiting().start();
    first.wait_for("both files", |node| {
        node.get("/metrics").is_some() && node.delivered("a") == 2 && node.delivered("b") == 2
    });
    let mut client = Client::tcp(port);
    for (seq, tag) in ["a", "b", "a", "b"].into_iter().enumerate() {
        let chunk = format!("c{seq}");
        client.send(&message(
            tag,
            1_700_000_000.into(),
            map(&[("log", chunk.as_str().into())]),
            Some(option(&chunk, &[])),
        ));
        client.expect_ack(&chunk);
    }
    let backlog = |node: &Node, sink| node.metric("longshore_sink_backlog_bytes", &[("sink", sink)]);
    first.wait_for("the one that is well to settle its frames", |node| {
        node.delivered("b") == 4 && node.delivered("a") == 4 && backlog(node, "b") == 0 && backlog(node, "a") > 0
    });
    let data = inside("data");
    let listed = || {
        let listed =
            run(dir.path(), &["checkpoints", "list", "--json", "--data-dir", data.to_str().expect("UTF-8")], b"");
        String::from_utf8_lossy(&listed.stdout).into_owned()
    };
    first.wait_for("the checkpoint of its file", |_| {
        listed().lines().any(|line| line.contains("\"fb\"") && line.contains("\"offset\":8"))
    });
    assert!(!listed().lines().any(|line| line.contains("\"fa\"") && line.contains("\"offset\":8")), "{}", listed());
    let (status, text) = first.get("/live").expect("it is served");
    assert!(status == 503 && text.contains("restart: sink a: ") && text.contains("sync failed"), "{text}");
    assert!(
        first
            .get("/health")
            .is_some_and(|(status, text)| status == 503 && text.contains("fa stay: outputs could not be synced"))
    );
    first.stop();
    // Restarted, as it asked to be: what nobody knows to be on the disk comes again.
    let mut second = node(dir.path(), &body).start();
    second.wait_for("what comes again", |node| node.undelivered(&[]) == 0 && node.delivered("a") >= 8);
    assert_eq!(second.delivered("b"), 4, "the other one had everything");
    second.stop_well();
    let logs = |name: &str| -> Vec<String> {
        let records = records(&inside(&format!("{name}.ndjson")));
        records.iter().map(|record| record["log"].as_str().expect("text").to_owned()).collect()
    };
    let (mut a, mut b) = (logs("a"), logs("b"));
    a.sort();
    b.sort();
    assert_eq!(b, ["c1", "c3", "one", "two"]);
    assert_eq!(a, ["c0", "c0", "c2", "c2", "one", "one", "two", "two"]);
}

#[test]
fn a_full_disk_stops_acks_turns_readiness_red_and_goes_on_when_there_is_room() {
    let dir = folder();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), "16m") else { return };
    let port = free_port();
    let data = format!("data_dir = {:?}", disk.0.join("data"));
    let body = config(dir.path(), port).replace("64MiB", "8MiB");
    let mut node = node(dir.path(), &body).with_node(&data).start();
    let senders = Senders::start(port, 2, Duration::from_millis(5));
    node.wait_for("acks", |_| senders.acked() > 500);
    // Somebody else fills the disk, and takes whatever the log gives back.
    let filler = disk.0.join("filler");
    let mut file = fs::File::create(&filler).expect("a file");
    let mut fill = move || while file.write_all(&[1; 4096]).is_ok() {};
    node.wait_for("readiness to fail", |node| {
        fill();
        node.get("/ready").is_some_and(|(status, why)| status == 503 && why.contains("can not be written"))
    });
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    // Acks that were under way arrive; then, as long as it does not say that it works again, there is none.
    node.wait_for("two seconds of red", |node| {
        let works_again = |node: &Node| node.log().matches("takes records again").count();
        let before = works_again(node);
        std::thread::sleep(Duration::from_millis(500));
        let acked = senders.acked();
        for _ in 0..20 {
            fill();
            std::thread::sleep(Duration::from_millis(100));
            if works_again(node) > before || node.get("/ready").is_none_or(|(status, _)| status != 503) {
                return false;
            }
        }
        let more = senders.acked();
        assert!(more == acked || works_again(node) > before, "{} records were acknowledged while red", more - acked);
        true
    });
    // While it is open it has its room.
    drop(fill);
    fs::remove_file(&filler).expect("it is there");
    let acked = senders.acked();
    node.wait_for("readiness", |node| node.get("/ready").is_some_and(|(status, _)| status == 200));
    node.wait_for("more acks", |_| senders.acked() > acked);
    let sent = senders.finish();
    node.wait_for("an empty backlog", |node| {
        node.metric("longshore_buffered", &[]) + node.metric("longshore_in_flight", &[]) == 0
    });
    audit_closes(dir.path());
    node.stop_well();
    assert_all_there(dir.path(), &sent);
}

#[test]
fn a_disk_that_fails_again_and_again_stops_acks_turns_readiness_red_and_what_it_has_is_delivered_meanwhile() {
    if !has_program("strace") {
        return skip("needs strace");
    }
    let dir = folder();
    let port = free_port();
    // So slow that there is a backlog.
    let server = Server::start(|_, _| {
        std::thread::sleep(Duration::from_millis(100));
        Answer::status(200)
    });
    let body = http_config(port, &server.url()).replace("64KiB", "16KiB");
    // Of one thread, the log's: three in a row are a disk that fails, the rest are tries a second and more apart.
    let fault = "inject=fdatasync:error=EIO:when=20..25";
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", fault];
    let mut node = node(dir.path(), &body).under(&strace).start();
    let senders = Senders::start(port, 2, Duration::from_millis(2));
    let is_red = |node: &Node| {
        node.get("/ready").is_some_and(|(status, why)| status == 503 && why.contains("can not be written"))
    };
    node.wait_for("readiness to fail", is_red);
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    // Acks that were under way arrive.
    std::thread::sleep(Duration::from_millis(200));
    let (acked, delivered) = (senders.acked(), node.delivered("central"));
    node.wait_for("more at the server", |node| node.delivered("central") > delivered);
    let more = senders.acked();
    assert!(is_red(&node), "it was well before the sink had anything more:\n{}", node.log());
    assert_eq!(more, acked, "acknowledged while red");
    node.wait_for("readiness", |node| node.get("/ready").is_some_and(|(status, _)| status == 200));
    node.wait_for("more acks", |_| senders.acked() > acked);
    assert!(node.metric("longshore_buffer_failures_total", &[]) >= 3);
    let sent = senders.finish();
    node.wait_for("an empty backlog", |node| node.undelivered(&[]) == 0);
    node.stop_well();
    let found = Numbers::of(&server.accepted(), "p", "seq");
    assert!(found.missing(&sent).is_empty(), "acknowledged and not there: {:?}", found.missing(&sent));
}

#[test]
fn any_bytes_in_the_folder_of_the_log_let_it_start_and_are_counted() {
    let dir = folder();
    let port = free_port();
    let senders = Senders::start(port, 1, Duration::from_millis(1));
    // A dead server, so that the log has something to lose.
    let body = config(dir.path(), port);
    let body = format!(
        "{}[sinks.out]\ntype = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n",
        &body[..body.find("[sinks.out]").expect("it has that sink")],
        free_port()
    );
    let mut first = node(dir.path(), &body).start();
    first.wait_for("acks", |_| senders.acked() >= 5_000);
    first.kill();
    let buffer = dir.path().join("data/buffer");
    let mut segments: Vec<_> = fs::read_dir(&buffer).expect("there").flatten().map(|entry| entry.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|ext| ext == "seg"));
    let mut bytes = fs::read(&segments[0]).expect("readable");
    for at in [5_000, 20_000, 50_000] {
        bytes[at] ^= 0x10;
    }
    fs::write(&segments[0], bytes).expect("writable");
    fs::write(buffer.join("00000000000000999999.seg"), b"not a segment").expect("writable");
    fs::write(buffer.join("META"), b"\0\0\0\0").expect("writable");
    let mut second = node(dir.path(), &config(dir.path(), port)).start();
    let acked = senders.acked();
    second.wait_for("the senders to go on", |_| senders.acked() > acked);
    senders.finish();
    second.wait_for("an empty backlog", |node| {
        node.metric("longshore_buffered", &[]) + node.metric("longshore_in_flight", &[]) == 0
    });
    let lost = second.metric("longshore_dropped_total", &[("reason", "buffer_damaged")]);
    assert!(lost > 0, "the damage is counted in records:\n{}", second.figures());
    let kept = files_under(&buffer.join("quarantine"));
    let has = |end: &str| kept.iter().any(|path| path.to_string_lossy().ends_with(end));
    assert!(has(".frame") && has("999999.seg"), "what was damaged, and what is no segment: {kept:?}");
    second.assert_ledger_closes();
    second.stop_well();
}
