//! Disks that fail under the disk log: errors of single calls (injected by strace), a file system that is full. What was
//! acknowledged stays, nothing more is acknowledged meanwhile, readiness says so, and it goes on by itself afterwards.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::durable::config;
use crate::full_disk::SmallDisk;
use crate::harness::engine::has_program;
use crate::harness::records::{Numbers, records};
use crate::harness::sender::Senders;
use crate::harness::{Node, audit_closes, folder, free_port, node, skip};

fn assert_all_there(dir: &Path, sent: &std::collections::BTreeMap<String, u64>) {
    let found = Numbers::of(&records(&dir.join("out.ndjson")), "p", "seq");
    assert!(found.missing(sent).is_empty(), "acknowledged and not there: {:?}", found.missing(sent));
}

#[test]
fn failed_calls_of_the_disk_cost_nothing_that_was_acknowledged() {
    if !has_program("strace") {
        return skip("needs strace");
    }
    // The counter is per thread, so each is hit, the log's among them; `+` repeats it.
    let faults = [
        "fdatasync:error=EIO:when=3+9",
        "fdatasync:error=ENOSPC:when=4+7",
        "pwrite64:error=EIO:when=2+6",
        "pwrite64:error=ENOSPC:when=3+8",
        "pwrite64:error=EINTR:when=2+3",
        "rename,renameat,renameat2:error=EIO:when=2+3",
    ];
    for fault in faults {
        let dir = folder();
        let port = free_port();
        let (calls, _) = fault.split_once(':').expect("calls and what they answer");
        let (trace, inject) = (format!("trace={calls}"), format!("inject={fault}"));
        let seen = dir.path().join("calls");
        let to = seen.to_str().expect("UTF-8");
        let strace = ["strace", "-D", "-f", "-qq", "-o", to, "-e", &trace, "-e", &inject];
        let mut first = node(dir.path(), &config(dir.path(), port)).under(&strace).start();
        let senders = Senders::start(port, 2, Duration::from_millis(20));
        std::thread::sleep(Duration::from_millis(1_500));
        let acked = senders.acked();
        let hit = || fs::read_to_string(&seen).unwrap_or_default().matches("(INJECTED)").count();
        first.wait_for("a call that fails", |_| hit() > 0);
        if fault.starts_with("fdatasync") {
            first.wait_for("a failure of the log", |node| node.metric("longshore_buffer_failures_total", &[]) > 0);
        }
        // It lives, and goes on acknowledging.
        assert_eq!(first.get("/live").map(|(status, _)| status), Some(200), "{fault}: {}", first.log());
        first.wait_for("acks between failures", |_| senders.acked() > acked);
        let acked = senders.acked();
        first.kill();
        // And without faults: everything goes on from what is on the disk, whatever that is.
        let mut second = node(dir.path(), &config(dir.path(), port)).start();
        second.wait_for("the senders to go on", |_| senders.acked() > acked);
        let sent = senders.finish();
        second.wait_for("an empty backlog", |node| {
            node.metric("longshore_buffered", &[]) + node.metric("longshore_in_flight", &[]) == 0
        });
        second.stop_well();
        audit_closes(dir.path());
        assert_all_there(dir.path(), &sent);
    }
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
    audit_closes(dir.path());
    assert_all_there(dir.path(), &sent);
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
    second.assert_ledger_closes();
    second.stop_well();
    audit_closes(dir.path());
}
