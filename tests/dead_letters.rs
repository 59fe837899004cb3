//! Dead letters: what a server refuses for good is kept with the reason, shown, and sent again, beside a running node and
//! after it; the ledger counts it as rejected all the while.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::http::{Answer, Server};
use crate::harness::records::{Numbers, files_under, parse};
use crate::harness::{folder, node, run, told};

const RECORDS: u64 = 600;

fn is_bad(seq: u64) -> bool {
    seq % 97 == 5
}

fn bad() -> Vec<u64> {
    (0..RECORDS).filter(|seq| is_bad(*seq)).collect()
}

/// A server that answers 400 to whatever holds a bad record, while `strict`.
fn server(strict: &Arc<AtomicBool>) -> Server {
    let strict = Arc::clone(strict);
    Server::start(move |request, _| {
        let bad = request.body.windows(7).any(|window| window == b"bad-one");
        match bad && strict.load(Ordering::Relaxed) {
            true => Answer(400, Vec::new(), "no field \"note\" of that kind\n"),
            false => Answer::status(200),
        }
    })
}

fn write_log(dir: &Path) {
    let line = |seq| format!("{{\"seq\":{seq},\"note\":\"{}\"}}\n", if is_bad(seq) { "bad-one" } else { "good" });
    fs::write(dir.join("app.log"), (0..RECORDS).map(line).collect::<String>()).expect("writable");
}

fn config(dir: &Path, server: &Server) -> String {
    format!(
        "[inputs.app]\ntype = \"file\"\npaths = [{:?}]\nformat = \"json\"\n\
         [sinks.central]\ntype = \"http\"\nurl = \"{}\"\nbatch = {{ size = \"16KiB\", wait = \"20ms\" }}\n",
        dir.join("app.log"),
        server.url()
    )
}

/// What `dead-letters` with these words says of the node in `dir`.
pub fn letters(dir: &Path, words: &[&str]) -> Output {
    let config = dir.join("longshore.toml");
    let config = config.to_str().expect("UTF-8");
    let words: Vec<&str> =
        ["dead-letters", words[0], "--config", config].into_iter().chain(words[1..].iter().copied()).collect();
    run(dir, &words, b"")
}

/// Its lines, each a JSON value.
pub fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", told(output));
    String::from_utf8_lossy(&output.stdout).lines().map(parse).collect()
}

/// In order; letters come in the order of the answers.
fn seqs(letters: &[Value]) -> Vec<u64> {
    let mut seqs: Vec<u64> = letters.iter().map(|letter| letter["record"]["seq"].as_u64().expect("a number")).collect();
    seqs.sort_unstable();
    seqs
}

#[test]
fn refused_records_are_kept_shown_and_sent_again_beside_a_running_node_and_after_it() {
    let dir = folder();
    write_log(dir.path());
    let strict = Arc::new(AtomicBool::new(true));
    let server = server(&strict);
    let mut first = node(dir.path(), &config(dir.path(), &server)).start();
    let expected = bad();
    let written = [("sink", "central")];
    first.wait_for("a letter for every refused record", |node| {
        node.metric("longshore_dead_letters_written_total", &written) == expected.len() as u64
            && node.delivered("central") == RECORDS - expected.len() as u64
    });
    first.wait_for("the gauge", |node| node.metric("longshore_dead_letters", &written) == expected.len() as u64);
    assert!(first.metric("longshore_dead_letters_bytes", &[]) > 0);
    assert_eq!(first.metric("longshore_dead_letters_lost_total", &[]), 0);
    first.assert_ledger_closes();

    // Beside the running node.
    let listed = lines(&letters(dir.path(), &["list", "--json"]));
    assert_eq!(listed.len(), expected.len());
    for letter in &listed {
        let of = |key: &str| letter[key].as_str().expect("text").to_owned();
        assert_eq!((of("sink"), of("input"), of("tag")), ("central".into(), "app".into(), of("tag")), "{letter}");
        assert!(of("reason") == "refused" && of("cause").contains("400") && of("time").starts_with("20"), "{letter}");
    }
    let text = letters(dir.path(), &["list"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("app -> central") && text.contains("refused: "), "{text}");
    assert!(text.lines().last().expect("a last line").starts_with(&format!("{} dead letters", expected.len())));
    let shown = lines(&letters(dir.path(), &["show"]));
    assert_eq!(seqs(&shown), expected);
    assert!(shown.iter().all(|letter| letter["record"]["note"] == "bad-one" && letter["record"]["file"].is_string()));
    let second = shown[1]["number"].to_string();
    assert_eq!(seqs(&lines(&letters(dir.path(), &["show", &second]))), seqs(&shown[1..2]));
    let missing = letters(dir.path(), &["show", "999999999"]);
    assert!(!missing.status.success() && told(&missing).contains("there is no dead letter 999999999"));

    // Still refused: everything stays, and says so.
    let again = letters(dir.path(), &["replay", "--sink", "central"]);
    assert_eq!(again.status.code(), Some(1), "{}", told(&again));
    let answer = format!("central: 0 sent again, {} refused again (they stay)", expected.len());
    assert!(told(&again).contains(&answer), "{}", told(&again));
    assert_eq!(lines(&letters(dir.path(), &["list", "--json"])).len(), expected.len());

    // The server takes them now: first one by its number, then the others, while the node runs.
    strict.store(false, Ordering::Relaxed);
    let one = letters(dir.path(), &["replay", &second]);
    assert!(one.status.success() && told(&one).contains("central: 1 sent again\n"), "{}", told(&one));
    assert_eq!(lines(&letters(dir.path(), &["list", "--json"])).len(), expected.len() - 1);
    let rest = letters(dir.path(), &["replay"]);
    let answer = format!("central: {} sent again\n", expected.len() - 1);
    assert!(rest.status.success() && told(&rest).contains(&answer), "{}", told(&rest));
    let none = letters(dir.path(), &["replay"]);
    assert!(none.status.success() && !told(&none).contains("sent again\n"), "{}", told(&none));
    let records = server.accepted();
    let found = Numbers::of(&records, "tag", "seq");
    let tag = records[0]["tag"].as_str().expect("a tag").to_owned();
    assert!(found.missing(&[(tag, RECORDS)].into()).is_empty() && found.duplicates().is_empty(), "once each");

    // The ledger is not changed by it, and nothing of it is forgotten by a restart.
    let labels = [("sink", "central"), ("reason", "refused")];
    assert_eq!(first.metric("longshore_rejected_total", &labels), expected.len() as u64);
    first.stop_well();
    let after = lines(&letters(dir.path(), &["list", "--json"]));
    assert!(after.is_empty(), "{after:?}");
    let text = letters(dir.path(), &["list"]);
    assert!(told(&text).contains(&format!("{} that were sent again are not shown", expected.len())), "{}", told(&text));
}

#[test]
fn letters_survive_kills_and_a_destination_that_is_away_leaves_them_where_they_are() {
    let dir = folder();
    write_log(dir.path());
    let strict = Arc::new(AtomicBool::new(true));
    let server = server(&strict);
    let mut first = node(dir.path(), &config(dir.path(), &server)).start();
    let expected = bad();
    first.wait_for("the letters", |node| {
        node.metric("longshore_dead_letters_written_total", &[]) == expected.len() as u64
    });
    first.kill();
    assert_eq!(seqs(&lines(&letters(dir.path(), &["show"]))), expected);
    let port = server.port;
    drop(server);
    let left = letters(dir.path(), &["replay", "--patience", "2"]);
    assert_eq!(left.status.code(), Some(3), "{}", told(&left));
    assert!(told(&left).contains(&format!("{} not taken within 2s", expected.len())), "{}", told(&left));
    assert_eq!(seqs(&lines(&letters(dir.path(), &["show"]))), expected);
    let server = Server::start_at(port, |_, _| Answer::status(200));
    let all = letters(dir.path(), &["replay"]);
    assert!(all.status.success(), "{}", told(&all));
    let mut accepted: Vec<u64> = server.accepted().iter().filter_map(|record| record["seq"].as_u64()).collect();
    accepted.sort_unstable();
    assert_eq!(accepted, expected);
}

#[test]
fn the_log_of_letters_keeps_its_size_and_the_oldest_go_counted() {
    let dir = folder();
    let server = Server::start(|_, _| Answer(400, Vec::new(), "never"));
    let pad = "x".repeat(20_000);
    let text: String = (0..1_500).map(|seq| format!("{{\"seq\":{seq},\"pad\":\"{pad}\"}}\n")).collect();
    fs::write(dir.path().join("app.log"), text).expect("writable");
    let body = format!("{}\n[dead_letters]\nsize = \"8MiB\"\n", config(dir.path(), &server));
    let mut node = node(dir.path(), &body).start();
    node.wait_for("an end for every record", |node| node.metric("longshore_rejected_total", &[]) == 1_500);
    node.wait_for("a letter for every record", |node| {
        node.metric("longshore_dead_letters_written_total", &[]) == 1_500
    });
    let of_reason = |reason| node.metric("longshore_dead_letters_lost_total", &[("reason", reason)]);
    let lost = of_reason("pushed_out");
    assert!(lost > 500 && of_reason("unwritten") == 0, "{}", node.figures());
    node.stop_well();
    let bytes: u64 = files_under(&dir.path().join("data/dead-letters"))
        .iter()
        .map(|path| path.metadata().expect("it is there").len())
        .sum();
    assert!(bytes <= (8 << 20) + (64 << 10), "{bytes}");
    let shown = lines(&letters(dir.path(), &["show"]));
    assert_eq!(shown.len() as u64, 1_500 - lost);
    assert!(seqs(&shown)[0] > 500, "the newest are kept: {:?}", seqs(&shown)[0]);
}

#[test]
fn without_letters_the_commands_say_so_and_no_folder_is_made() {
    let dir = folder();
    let strict = Arc::new(AtomicBool::new(false));
    let server = server(&strict);
    let config = config(dir.path(), &server);
    node(dir.path(), &config).write_config();
    let never = letters(dir.path(), &["list"]);
    assert!(!never.status.success() && told(&never).contains("no longshore has run with this data folder"));
    write_log(dir.path());
    let mut node = node(dir.path(), &config).start();
    node.wait_for("the records", |node| node.delivered("central") == RECORDS);
    node.stop_well();
    assert!(!dir.path().join("data/dead-letters").exists());
    let none = letters(dir.path(), &["list"]);
    assert!(none.status.success() && told(&none).contains("0 dead letters"), "{}", told(&none));
    let none = letters(dir.path(), &["replay"]);
    assert!(none.status.success() && told(&none).contains("no dead letters"), "{}", told(&none));
    let unknown = letters(dir.path(), &["replay", "--sink", "centrol"]);
    assert!(!unknown.status.success() && told(&unknown).contains("there is central"), "{}", told(&unknown));
}
