//! Any bytes in the data folder: the start succeeds or says in one line what to do, what can be read is delivered, and what
//! can not is counted. Each case is a copy of one folder with a backlog of several segments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::http::{Answer, Server};
use crate::harness::records::files_under;
use crate::harness::sender::Senders;
use crate::harness::{PATIENCE, audit_closes, folder, free_port, node, run, run_command, told};

/// A stopped node's folder: nobody took its records.
struct Backlog {
    dir: TempDir,
    sent: BTreeMap<String, u64>,
}

fn config(port: u16, url: &str) -> String {
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [buffer]\nsize = \"16MiB\"\n[sinks.central]\ntype = \"http\"\nurl = \"{url}\"\n\
         batch = {{ size = \"256KiB\", wait = \"20ms\" }}\n"
    )
}

fn make(segments: u64) -> Backlog {
    let dir = folder();
    let port = free_port();
    let body = config(port, &format!("http://127.0.0.1:{}/", free_port()));
    let mut node = node(dir.path(), &body).with_node("shutdown_timeout = \"1s\"").start();
    let senders = Senders::start(port, 3, Duration::from_millis(1));
    node.wait_for("some segments", |node| node.metric("longshore_buffer_segments", &[]) >= segments);
    let sent = senders.finish();
    assert_eq!(node.stop(), 3, "{}", node.log());
    Backlog { dir, sent }
}

fn backlog() -> &'static Backlog {
    static BACKLOG: OnceLock<Backlog> = OnceLock::new();
    BACKLOG.get_or_init(|| make(4))
}

fn total() -> u64 {
    backlog().sent.values().sum()
}

fn copy(from: &Path, to: &Path) {
    for path in files_under(from) {
        let target = to.join(path.strip_prefix(from).expect("it is below"));
        fs::create_dir_all(target.parent().expect("it has one")).expect("writable");
        // A file of a running node may go meanwhile, and its socket is none.
        if path.symlink_metadata().is_ok_and(|file| file.is_file()) {
            let _ = fs::copy(&path, target);
        }
    }
}

/// What became of the backlog.
#[derive(Debug)]
struct Found {
    delivered: u64,
    damaged: u64,
    returned: u64,
    log: String,
    _dir: TempDir,
}

impl Found {
    /// Every record has an end.
    fn assert_complete(&self, case: &str) {
        assert_eq!(self.delivered + self.damaged + self.returned, total(), "{case}: {self:?}");
    }

    /// Nothing is missing.
    fn assert_whole(&self, case: &str) {
        assert_eq!((self.delivered, self.damaged, self.returned), (total(), 0, 0), "{case}: {self:?}");
    }
}

/// Starts a node on a copy that was changed; it must start, deliver and stop well, and close its ledger.
fn after(case: &str, change: impl FnOnce(&Path)) -> Found {
    let dir = folder();
    let data = dir.path().join("data");
    copy(&backlog().dir.path().join("data"), &data);
    change(&data);
    let server = Server::start(|_, _| Answer::status(200));
    let mut node = node(dir.path(), &config(free_port(), &server.url())).start();
    node.wait_for(case, |node| node.metric("longshore_buffered", &[]) + node.metric("longshore_in_flight", &[]) == 0);
    let found = Found {
        delivered: node.delivered("central"),
        damaged: node.metric("longshore_dropped_total", &[("reason", "buffer_damaged")]),
        returned: node.metric("longshore_returned_total", &[]),
        log: String::new(),
        _dir: dir,
    };
    node.assert_ledger_closes();
    node.stop_well();
    let found = Found { log: node.log(), ..found };
    audit_closes(found._dir.path());
    let mut seen = BTreeSet::new();
    for record in server.accepted() {
        let (of, seq) = (record["p"].as_str().expect("a name").to_owned(), record["seq"].as_u64().expect("a number"));
        assert!(seq < backlog().sent[&of], "{case}: a record that nobody sent");
        assert!(seen.insert((of, seq)), "{case}: a record came twice");
    }
    assert_eq!(seen.len() as u64, found.delivered, "{case}");
    found
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let mut found = files_under(&data.join("buffer"));
    found.retain(|path| path.extension().is_some_and(|ext| ext == "seg"));
    found.sort();
    assert!(found.len() >= 3, "the backlog has several segments: {found:?}");
    found
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("readable");
    change(&mut bytes);
    fs::write(path, bytes).expect("writable");
}

#[test]
fn a_whole_folder_loses_nothing_and_neither_do_lost_names_cursors_and_headers() {
    after("untouched", |_| {}).assert_whole("untouched");
    let cases: [(&str, fn(&Path)); 6] = [
        ("META missing", |data| fs::remove_file(data.join("buffer/META")).expect("there")),
        ("META damaged", |data| edit(&data.join("buffer/META"), |bytes| bytes[9] ^= 4)),
        ("LOCK missing", |data| fs::remove_file(data.join("buffer/LOCK")).expect("there")),
        ("both slots of the cursor damaged", |data| {
            edit(&data.join("buffer/00.cursor"), |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0x55));
        }),
        ("a header damaged", |data| edit(&segments(data)[1], |bytes| bytes[20] ^= 1)),
        ("a segment under another name, and a copy of one", |data| {
            let segments = segments(data);
            let buffer = data.join("buffer");
            fs::rename(&segments[1], buffer.join("x")).expect("there");
            fs::rename(&segments[0], &segments[1]).expect("there");
            fs::rename(buffer.join("x"), &segments[0]).expect("there");
            fs::copy(&segments[2], buffer.join("00000000000000000777.seg")).expect("writable");
        }),
    ];
    for (case, change) in cases {
        after(case, change).assert_whole(case);
    }
}

#[test]
fn what_is_cut_zeroed_flipped_or_missing_costs_itself_and_is_counted() {
    let cases: [(&str, fn(&Path)); 7] = [
        ("a segment missing", |data| fs::remove_file(&segments(data)[1]).expect("there")),
        ("a segment empty", |data| edit(&segments(data)[1], Vec::clear)),
        ("a segment cut in the middle", |data| edit(&segments(data)[1], |bytes| bytes.truncate(bytes.len() / 2))),
        ("a segment zeroed in the middle", |data| {
            edit(&segments(data)[1], |bytes| {
                let third = bytes.len() / 3;
                bytes[third..2 * third].fill(0);
            });
        }),
        ("a segment of zeros", |data| edit(&segments(data)[0], |bytes| bytes.fill(0))),
        ("garbage for a segment", |data| {
            edit(&segments(data)[1], |bytes| fastrand::Rng::with_seed(7).fill(bytes));
        }),
        ("bits flipped all over the old segments", |data| {
            let mut rng = fastrand::Rng::with_seed(11);
            for path in &segments(data)[..2] {
                edit(path, |bytes| {
                    for _ in 0..20 {
                        let at = rng.usize(..bytes.len());
                        bytes[at] ^= 1 << rng.u8(..8);
                    }
                });
            }
        }),
    ];
    for (case, change) in cases {
        let found = after(case, change);
        found.assert_complete(case);
        assert!(found.damaged > 0 && found.delivered > 0, "{case}: {found:?}");
        assert!(found.log.contains("lost") || found.log.contains("damaged"), "{case}: it is said: {}", found.log);
    }
}

#[test]
fn strangers_in_the_folder_are_put_aside() {
    let other = make(1);
    let foreign = files_under(&other.dir.path().join("data/buffer"));
    let foreign = foreign.iter().find(|path| path.extension().is_some_and(|ext| ext == "seg")).expect("a segment");
    let aside = |found: &Found| files_under(&found._dir.path().join("data/buffer/quarantine")).len();
    let found = after("a segment of another log", |data| {
        fs::copy(foreign, data.join("buffer/00000000000000099999.seg")).expect("writable");
    });
    found.assert_whole("a segment of another log");
    assert_eq!(aside(&found), 1);
    let found = after("files that are nobody's", |data| {
        let buffer = data.join("buffer");
        fs::write(buffer.join("00000000000000088888.seg"), "no segment").expect("writable");
        fs::write(buffer.join("notes.txt"), "by a person").expect("writable");
        fs::write(buffer.join("63.cursor"), [7; 100]).expect("writable");
        fs::create_dir(buffer.join("00000000000000077777.seg")).expect("writable");
        std::os::unix::fs::symlink("/etc/passwd", buffer.join("00000000000000066666.seg")).expect("writable");
    });
    found.assert_whole("files that are nobody's");
    assert!(found._dir.path().join("data/buffer/notes.txt").exists(), "nothing of others is removed");
}

#[test]
fn a_ledger_or_checkpoint_that_is_gone_or_damaged_does_not_keep_the_backlog() {
    let of_checkpoints = |data: &Path| -> Vec<PathBuf> {
        let mut found = files_under(data);
        found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoints")));
        assert!(!found.is_empty());
        found
    };
    for case in ["missing", "empty", "garbage", "half"] {
        let found = after(case, |data| {
            for path in of_checkpoints(data) {
                match case {
                    "missing" => fs::remove_file(path).expect("there"),
                    "empty" => edit(&path, Vec::clear),
                    "garbage" => edit(&path, |bytes| fastrand::Rng::with_seed(3).fill(bytes)),
                    _ => edit(&path, |bytes| bytes.truncate(bytes.len() / 2)),
                }
            }
        });
        assert_eq!((found.delivered, found.damaged), (total(), 0), "{case}: {found:?}");
    }
}

/// `tests/fixtures/data-1.tar.gz` was written by the first version: never made anew, so it holds every later one to its format.
/// In it: 20 records of `apps` that wait for the sink `central` and were delivered by `copy`, three lines of a file.
#[test]
fn the_folder_of_the_first_format_is_read_and_gone_on_with() {
    let dir = folder();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-1.tar.gz");
    let mut tar = std::process::Command::new("tar");
    let output = run_command(tar.arg("-C").arg(dir.path()).arg("-xzf").arg(fixture), b"");
    assert!(output.status.success(), "{}", told(&output));
    let data = dir.path().join("data").display().to_string();
    let listed = run(dir.path(), &["checkpoints", "list", "--json", "--data-dir", &data], b"");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("/srv/app.log") && listed.contains("14"), "{listed}");

    let server = Server::start(|_, _| Answer::status(200));
    let out = dir.path().join("out.ndjson");
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{}\"]\n\
         [inputs.files]\ntype = \"file\"\npaths = [\"/srv/app.log\"]\n[buffer]\nsize = \"8MiB\"\n\
         [sinks.central]\ntype = \"http\"\nmatch = \"app.*\"\nurl = {:?}\n\
         [sinks.copy]\ntype = \"file\"\nmatch = \"**\"\npath = {out:?}\n",
        free_port(),
        server.url()
    );
    let mut node = node(dir.path(), &body).start();
    node.wait_for("the backlog", |node| node.delivered("central") == 20 && node.undelivered(&[]) == 0);
    assert_eq!(node.delivered("copy"), 23, "the ledger goes on, and nothing comes twice");
    node.assert_ledger_closes();
    node.stop_well();
    let seqs: BTreeSet<u64> =
        server.accepted().iter().map(|record| record["seq"].as_u64().expect("a number")).collect();
    assert_eq!((server.accepted().len(), seqs), (20, (0..20).collect()));
    assert!(server.accepted().iter().all(|record| record["p"] == "fixture"));
    assert!(!out.exists() || fs::read(&out).expect("readable").is_empty(), "`copy` had all of it");
}

/// The one line that a start which failed says.
fn last_word(log: &str, says: &[&str]) {
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("longshore: ")).collect();
    assert!(lines.len() == 1 && says.iter().all(|word| lines[0].contains(word)), "{log}");
}

/// A start that fails: exit code 1, and one line that says all of it.
fn refused(change: impl FnOnce(&Path), says: &[&str]) {
    let dir = folder();
    let data = dir.path().join("data");
    copy(&backlog().dir.path().join("data"), &data);
    change(&data);
    // But for who holds the locks.
    let kept = || -> Vec<_> {
        let files = files_under(&data).into_iter().filter(|path| !path.ends_with("lock") && !path.ends_with("LOCK"));
        files.map(|path| (fs::read(&path).expect("readable"), path)).collect()
    };
    let before = kept();
    let body = config(free_port(), "http://127.0.0.1:1/");
    let mut node = node(dir.path(), &body).without_waiting().start();
    assert_eq!(node.wait_exit(PATIENCE), 1, "{}", node.log());
    last_word(&node.log(), says);
    assert!(before == kept(), "nothing is changed by a start that is refused");
    // Put right again.
    copy(&backlog().dir.path().join("data"), &data);
    audit_closes(dir.path());
}

#[test]
fn a_folder_of_a_newer_version_is_refused_in_one_line_and_left_alone() {
    let newer_meta = |data: &Path| {
        edit(&data.join("buffer/META"), |bytes| {
            let text =
                String::from_utf8(bytes.clone()).expect("text").replacen("longshore log 1", "longshore log 2", 1);
            let end = text.rfind("crc ").expect("a last line");
            let crc = crc32c::crc32c(&text.as_bytes()[..end]);
            *bytes = format!("{}crc {crc:08x}\n", &text[..end]).into_bytes();
        });
    };
    refused(newer_meta, &["newer version of longshore (format 2, this one knows 1)", "move the folder"]);
    let newer_segment = |data: &Path| {
        edit(segments(data).last().expect("one"), |bytes| {
            let len = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize;
            bytes[8] = 2;
            bytes[56..60].fill(0);
            let crc = crc32c::crc32c(&bytes[..len]);
            bytes[56..60].copy_from_slice(&crc.to_le_bytes());
        });
    };
    refused(newer_segment, &[".seg", "newer version of longshore"]);
    let newer_checkpoints = |data: &Path| {
        edit(&data.join("checkpoints"), |bytes| {
            let text = String::from_utf8(bytes.clone()).expect("text");
            let (first, rest) = text.split_once('\n').expect("lines");
            let first = first[9..].replacen("\"version\":1", "\"version\":2", 1);
            *bytes = format!("{:08x} {first}\n{rest}", crc32c::crc32c(first.as_bytes())).into_bytes();
        });
    };
    refused(newer_checkpoints, &["checkpoints: version 2, this longshore knows 1", "move the file away"]);
}

#[test]
fn a_second_process_on_the_folder_is_refused_and_the_first_goes_on() {
    let dir = folder();
    let data = dir.path().join("data");
    copy(&backlog().dir.path().join("data"), &data);
    let server = Server::start(|_, _| Answer::status(200));
    let mut first = node(dir.path(), &config(free_port(), &server.url())).start();
    let second_dir = folder();
    let of_first = format!("data_dir = {data:?}");
    let body = config(free_port(), &server.url());
    let mut second = node(second_dir.path(), &body).with_node(&of_first).without_waiting().start();
    assert_eq!(second.wait_exit(PATIENCE), 1, "{}", second.log());
    last_word(&second.log(), &["another longshore", "data_dir"]);
    first.wait_for("everything", |node| node.delivered("central") == total());
    first.stop_well();
}

#[test]
fn a_folder_that_was_copied_while_its_node_ran_can_be_started() {
    let dir = folder();
    let port = free_port();
    let body = config(port, &format!("http://127.0.0.1:{}/", free_port()));
    let mut first = node(dir.path(), &body).start();
    let senders = Senders::start(port, 2, Duration::from_millis(1));
    for round in 1..=3 {
        first.wait_for("more acks", |_| senders.acked() > round * 2_000);
        let copied = folder();
        let acked = senders.acked();
        copy(&dir.path().join("data"), &copied.path().join("data"));
        let server = Server::start(|_, _| Answer::status(200));
        let mut second = node(copied.path(), &config(free_port(), &server.url())).start();
        second.wait_for("its backlog", |node| {
            node.metric("longshore_buffered", &[]) + node.metric("longshore_in_flight", &[]) == 0
        });
        // A copy is no snapshot, but what was on the disk before it began is in it.
        assert!(server.accepted().len() as u64 >= acked, "{} of {acked}", server.accepted().len());
        second.stop_well();
        audit_closes(copied.path());
    }
    senders.finish();
    first.kill();
}
