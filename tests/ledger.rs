//! The ledger over a whole run: every record that came in has exactly one end for each sink that wanted it, or a reason
//! why none did.

use std::fmt::Write as _;
use std::fs;

use crate::harness::http::{Answer, Server};
use crate::harness::{folder, node};

const RECORDS: u64 = 4_000;

/// Four tags in turn: `a` for the file, `b` for both sinks, `c` for the server, `x` for none.
fn kind(seq: u64) -> &'static str {
    ["a", "b", "c", "x"][(seq % 4) as usize]
}

fn is_dropped(seq: u64) -> bool {
    seq.is_multiple_of(7)
}

/// The server refuses it.
fn is_bad(seq: u64) -> bool {
    seq % 101 == 1
}

fn count(wanted: impl Fn(u64) -> bool) -> u64 {
    (0..RECORDS).filter(|seq| wanted(*seq)).count() as u64
}

#[test]
fn it_closes_over_dropped_unrouted_refused_and_doubly_sent_records() {
    let dir = folder();
    let mut text = String::new();
    for seq in 0..RECORDS {
        let (level, note) =
            (if is_dropped(seq) { "debug" } else { "info" }, if is_bad(seq) { "bad-one" } else { "good" });
        writeln!(text, r#"{{"seq":{seq},"kind":"{}","level":"{level}","note":"{note}"}}"#, kind(seq))
            .expect("a string");
    }
    fs::write(dir.path().join("app.log"), text).expect("writable");
    let server = Server::start(|request, number| {
        let bad = request.body.windows(7).any(|window| window == b"bad-one");
        Answer::status(if bad {
            400
        } else if number == 0 {
            503
        } else {
            200
        })
    });
    let (log, out) = (dir.path().join("app.log"), dir.path().join("out.ndjson"));
    let body = format!(
        "[inputs.app]\ntype = \"file\"\npaths = [{log:?}]\nformat = \"json\"\n\
         [pipeline]\nsteps = [ {{ drop = 'level == \"debug\"' }}, {{ tag = \"{{kind}}\" }} ]\n\
         [sinks.archive]\ntype = \"file\"\nmatch = [\"a\", \"b\"]\npath = {out:?}\n\
         [sinks.central]\ntype = \"http\"\nmatch = [\"b\", \"c\"]\nurl = \"{}\"\nbatch = {{ size = \"16KiB\", wait = \"20ms\" }}\n",
        server.url()
    );
    let mut node = node(dir.path(), &body).start();
    let wanted = |sink: &str, seq: u64| {
        !is_dropped(seq) && (kind(seq) == "b" || kind(seq) == if sink == "archive" { "a" } else { "c" })
    };
    let (archived, sent) = (count(|seq| wanted("archive", seq)), count(|seq| wanted("central", seq)));
    let refused = count(|seq| wanted("central", seq) && is_bad(seq));
    assert!(refused > 5, "the test tests something: {refused}");
    node.wait_for("an end for every record", |node| {
        node.assert_ledger_closes();
        let ended = node.delivered("central") + node.metric("longshore_rejected_total", &[("sink", "central")]);
        node.delivered("archive") == archived && ended == sent
    });
    assert_eq!(node.metric("longshore_input_records_total", &[("input", "app")]), RECORDS);
    let dropped = |reason| node.metric("longshore_input_dropped_total", &[("input", "app"), ("reason", reason)]);
    let unrouted = count(|seq| !is_dropped(seq) && kind(seq) == "x");
    assert_eq!((dropped("step"), dropped("unrouted")), (count(is_dropped), unrouted));
    let routed = |sink| node.metric("longshore_routed_total", &[("input", "app"), ("sink", sink)]);
    assert_eq!((routed("archive"), routed("central")), (archived, sent));
    // Each record that was routed to both counts for both.
    let both = count(|seq| !is_dropped(seq) && kind(seq) == "b");
    assert_eq!(RECORDS, dropped("step") + dropped("unrouted") + routed("archive") + routed("central") - both);
    let labels = [("input", "app"), ("sink", "central"), ("reason", "refused")];
    assert_eq!(node.metric("longshore_rejected_total", &labels), refused);
    assert_eq!(node.delivered("central"), sent - refused);
    assert_eq!(node.metric("longshore_in_flight", &[]), 0);
    node.stop_well();
    assert_eq!(server.accepted().len() as u64, sent - refused);
    assert_eq!(crate::harness::records::line_count(&out) as u64, archived);
}

#[test]
fn a_file_that_was_taken_while_stopped_is_one_lost_generation_however_often_longshore_is_started() {
    let dir = folder();
    fs::write(dir.path().join("app.log.1"), "older\n").expect("writable");
    // Birth times have ticks.
    std::thread::sleep(std::time::Duration::from_millis(50));
    fs::write(dir.path().join("app.log"), "one\nunfinished").expect("writable");
    let body = crate::file_input::config(dir.path(), "text", "");
    let mut first = node(dir.path(), &body).start();
    first.wait_for("the whole line", |node| node.delivered("out") == 1);
    first.stop_well();
    fs::remove_file(dir.path().join("app.log")).expect("there");
    for _ in 0..3 {
        let mut node = node(dir.path(), &body).start();
        node.wait_for("the word about it", |node| {
            node.log().contains("no newer one is there: its last lines are lost")
        });
        node.stop_well();
    }
    let audit = crate::harness::audited(dir.path());
    let input = &audit["inputs"][0];
    assert_eq!((&input["lost_generations"]["lost"], &input["lost_bytes"]["gone"]), (&1.into(), &10.into()), "{audit}");
}
