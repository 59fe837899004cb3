//! `longshore dead-letters list|show|replay`: what sinks and inputs refused for good, looked at and sent again.
//!
//! All three read the letters without a lock, so they work beside a running node. `replay` opens each sink itself; a file
//! that the running node writes to is locked, so there it asks for the node to be stopped.
//!
//! What an input refused never was a record: it is shown, as bytes too, and no replay sends it.
//!
//! A letter whose record is refused again stays, with its old reason; the new one is told on standard error.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::batch::Outcome;
use crate::cli::DeadLetters as Words;
use crate::codec::msgpack;
use crate::codec::ndjson::Encoder;
use crate::codec::time::write_rfc3339;
use crate::config::{self, Config, Overrides};
use crate::dead_letters::{self, Letter, LetterOf, Letters, Marks};
use crate::metrics::Tally;
use crate::record::{Added, Timestamp};
use crate::replay::{Options, Replay};

/// How often it is saved which letters were sent.
const SAVE: Duration = Duration::from_secs(1);
/// Characters that `list` shows of a cause.
const CAUSE_SHOWN: usize = 80;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Everything that was asked for.
    All,
    /// Some records were refused again.
    Refused,
    /// Some were not taken in time.
    Left,
}

/// Does what the words say, with `out` as standard output.
///
/// # Errors
/// What is wrong, and the way out.
pub fn run(words: &Words, out: &mut dyn Write) -> Result<Done, String> {
    match words {
        Words::List { place, sink, json } => {
            list(
                &config::data_folder(place.config.as_deref(), place.data_dir.as_deref())?,
                sink.as_deref(),
                *json,
                out,
            )?;
            Ok(Done::All)
        }
        Words::Show { place, sink, raw, numbers } => {
            let data = config::data_folder(place.config.as_deref(), place.data_dir.as_deref())?;
            match raw {
                true => show_raw(&data, numbers, out)?,
                false => show(&data, sink.as_deref(), numbers, out)?,
            }
            Ok(Done::All)
        }
        Words::Replay { config, data_dir, sink, numbers, patience } => {
            let overrides = Overrides { data_dir: data_dir.clone(), ..Overrides::default() };
            let config = config::load(config, &overrides).map_err(|report| report.to_string())?;
            crate::log::start(config.telemetry.log);
            let wanted = Wanted { sink: sink.as_deref(), numbers: numbers.iter().copied().collect() };
            replay(config, &wanted, Duration::from_secs(*patience), out)
        }
    }
}

fn open(data: &Path) -> Result<Option<Letters>, String> {
    if !data.exists() {
        return Err(format!("{}: no longshore has run with this data folder", data.display()));
    }
    dead_letters::look(data).map_err(|error| format!("{}: {error}", dead_letters::folder(data).display()))
}

/// What was asked for.
struct Wanted<'a> {
    sink: Option<&'a str>,
    /// All where it is empty.
    numbers: BTreeSet<u64>,
}

impl Wanted<'_> {
    fn wants(&self, letter: &Letter) -> bool {
        self.sink.is_none_or(|sink| letter.sink() == Some(sink))
            && (self.numbers.is_empty() || self.numbers.contains(&letter.number))
    }
}

/// A reader of our output that went away has seen what it wanted.
fn written(done: io::Result<()>) -> Result<bool, String> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("standard output: {error}")),
    }
}

fn head(letter: &Letter) -> Value {
    let mut head = json!({
        "number": letter.number, "time": time(letter.time_ms), "sink": letter.sink(), "input": letter.input,
        "tag": letter.tag(), "reason": letter.reason,
    });
    match &letter.of {
        LetterOf::Sink { cause, record, .. } => {
            head["cause"] = json!(cause);
            head["id"] = json!(record.id_of(0).to_string());
        }
        LetterOf::Input { peer, what, from, whole, data, .. } => {
            head["peer"] = json!(Some(peer).filter(|peer| !peer.is_empty()));
            head["what"] = json!(what);
            head["bytes"] = json!(whole);
            head["kept"] = json!(data.len());
            head["kept_from"] = json!(from);
            head["cut"] = json!(data.len() as u64 != *whole);
        }
    }
    head
}

fn list(data: &Path, sink: Option<&str>, json: bool, out: &mut dyn Write) -> Result<(), String> {
    let wanted = Wanted { sink, numbers: BTreeSet::new() };
    let mut letters = open(data)?;
    let (mut count, mut bytes) = (0u64, 0u64);
    for letter in letters.iter_mut().flatten().filter(|letter| wanted.wants(letter)) {
        count += 1;
        bytes += letter.bytes as u64;
        let line = if json { head(&letter).to_string() } else { line(&letter) };
        if !written(writeln!(out, "{line}"))? {
            return Ok(());
        }
    }
    if json {
        return Ok(());
    }
    let sent = letters.as_ref().map_or(0, Letters::sent);
    let unreadable = letters.as_ref().map_or(0, Letters::unreadable);
    let mut last = format!("{count} dead letters, {bytes} bytes");
    if sent > 0 {
        last.push_str(&format!("; {sent} that were sent again are not shown"));
    }
    if unreadable > 0 {
        last.push_str(&format!("; {unreadable} CAN NOT BE READ"));
    }
    written(writeln!(out, "{last}")).map(|_| ())
}

/// A letter for people.
fn line(letter: &Letter) -> String {
    let tag = shown(letter.tag().unwrap_or("-"));
    let (number, time, reason) = (letter.number, time(letter.time_ms), shown(&letter.reason));
    let input = shown(&letter.input);
    let (sink, cause) = match &letter.of {
        LetterOf::Sink { sink, cause, .. } => (shown(sink), cause),
        LetterOf::Input { peer, what, whole, data, .. } => {
            let cut = if data.len() as u64 == *whole { "" } else { ", cut" };
            let peer = if peer.is_empty() { "nobody known" } else { peer };
            let cause = format!("{what} of {whole} bytes{cut} from {peer}");
            return format!("{number}  {time}  {input} refused  {tag}  {reason}: {}", shown(&cause));
        }
    };
    let mut cause = shown(cause);
    if let Some((cut, _)) = cause.char_indices().nth(CAUSE_SHOWN) {
        cause.truncate(cut);
        cause.push_str("...");
    }
    format!("{number}  {time}  {input} -> {sink}  {tag}  {reason}: {cause}")
}

/// A terminal is not to be steered by what a server answers.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn time(ms: u64) -> String {
    let mut text = Vec::new();
    let ns = i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    write_rfc3339(Timestamp(ns), &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn show(data: &Path, sink: Option<&str>, numbers: &[u64], out: &mut dyn Write) -> Result<(), String> {
    let wanted = Wanted { sink, numbers: numbers.iter().copied().collect() };
    let mut missing = wanted.numbers.clone();
    let mut encoder = Encoder::new(Added::ALL);
    for letter in open(data)?.into_iter().flatten().filter(|letter| wanted.wants(letter)) {
        missing.remove(&letter.number);
        let mut line = head(&letter).to_string().into_bytes();
        line.pop();
        match &letter.of {
            // The record as a sink writes it, into the same object.
            LetterOf::Sink { record, .. } => {
                line.extend_from_slice(b",\"record\":");
                encoder.row(record, 0, &mut line);
            }
            LetterOf::Input { whole, data, .. } => {
                line.extend_from_slice(format!(",\"data\":\"{}\"", STANDARD.encode(data)).as_bytes());
                if data.len() as u64 == *whole
                    && let Some(value) = value(data)
                {
                    line.extend_from_slice(b",\"value\":");
                    line.extend_from_slice(&value);
                }
            }
        }
        line.extend_from_slice(b"}\n");
        if !written(out.write_all(&line))? {
            return Ok(());
        }
    }
    none_missing(&missing)
}

/// Bytes that are one array or map, in MessagePack or JSON, as JSON. (A lone byte may be a number in both.)
fn value(data: &[u8]) -> Option<Vec<u8>> {
    match data.first()? {
        b'[' | b'{' => serde_json::from_slice::<Value>(data).ok().map(|value| value.to_string().into_bytes()),
        0x80..=0x9f | 0xdc..=0xdf => {
            let mut out = Vec::new();
            let is_whole = msgpack::check(data, msgpack::DEPTH_MAX) == Ok(data.len());
            is_whole.then(|| msgpack::write_json(data, data.len(), &mut out, &mut Tally::default()));
            is_whole.then_some(out)
        }
        _ => None,
    }
}

/// The bytes of one letter of an input, as they are.
fn show_raw(data: &Path, numbers: &[u64], out: &mut dyn Write) -> Result<(), String> {
    let [number] = numbers else {
        return Err(format!("--raw gives the bytes of one letter: one NUMBER, not {}", numbers.len()));
    };
    let letter = open(data)?.into_iter().flatten().find(|letter| letter.number == *number);
    match letter.map(|letter| letter.of) {
        Some(LetterOf::Input { data, .. }) => written(out.write_all(&data)).map(|_| ()),
        Some(LetterOf::Sink { sink, .. }) => Err(format!(
            "dead letter {number} is a record that the sink {sink} refused, which has no bytes of its own; without --raw it is \
             shown as the sink writes it"
        )),
        None => none_missing(&BTreeSet::from([*number])),
    }
}

fn none_missing(missing: &BTreeSet<u64>) -> Result<(), String> {
    match missing.first() {
        None => Ok(()),
        Some(number) => {
            Err(format!("there is no dead letter {number}; `longshore dead-letters list` shows those that are there"))
        }
    }
}

fn replay(mut config: Config, wanted: &Wanted<'_>, patience: Duration, out: &mut dyn Write) -> Result<Done, String> {
    let data = config.node.data_dir.clone();
    if let Some(name) = wanted.sink
        && !config.sinks.iter().any(|sink| sink.name == name)
    {
        let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        return Err(format!("no sink is called \"{name}\"; there is {}", names.join(", ")));
    }
    let Some(letters) = open(&data)? else {
        none_missing(&wanted.numbers)?;
        return written(writeln!(out, "no dead letters")).map(|_| Done::All);
    };
    let dir = dead_letters::folder(&data);
    let _alone = Marks::lock(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    // Read under the lock: another replay may have ended just now.
    let mut marks = letters.marks().clone();
    drop(letters);
    let mut known: BTreeMap<String, Vec<(u64, bool)>> = BTreeMap::new();
    let (mut missing, mut never) = (wanted.numbers.clone(), BTreeMap::<String, u64>::new());
    for letter in open(&data)?.into_iter().flatten() {
        missing.remove(&letter.number);
        match letter.of {
            LetterOf::Sink { sink, .. } => known.entry(sink).or_default().push((letter.number, false)),
            LetterOf::Input { .. } if wanted.numbers.contains(&letter.number) => {
                return Err(format!(
                    "dead letter {0} is what the input {1} refused: it never was a record and can not be sent again; \
                     `longshore dead-letters show --raw {0}` gives its bytes",
                    letter.number, letter.input
                ));
            }
            LetterOf::Input { .. } => *never.entry(letter.input).or_default() += 1,
        }
    }
    none_missing(&missing)?;
    if wanted.sink.is_none() && wanted.numbers.is_empty() {
        for (input, count) in never {
            let why = "they never were records, and `show` has their bytes";
            written(writeln!(out, "{input}: {count} letters of what this input refused stay: {why}"))?;
        }
    }
    let mut worst = Done::All;
    for (name, mut numbers) in known {
        if wanted.sink.is_some_and(|sink| sink != name) {
            continue;
        }
        let Some(at) = config.sinks.iter().position(|sink| sink.name == name) else {
            written(writeln!(out, "{name}: {} letters of a sink that is configured no longer stay", numbers.len()))?;
            continue;
        };
        let named = config.sinks.remove(at);
        let options = Options { name: &name, kind: named.kind, memory: config.node.memory, patience };
        let sending = Replay::start(named.part, &options)?;
        let mut one = OneSink { dir: &dir, marks: &mut marks, name: &name, numbers: &mut numbers, refused: 0 };
        let sent = one.send(sending, &data, wanted)?;
        let (refused, left) = (one.refused, sent.asked - sent.taken - one.refused);
        let mut line = format!("{name}: {} sent again", sent.taken);
        if refused > 0 {
            line.push_str(&format!(", {refused} refused again (they stay)"));
        }
        if left > 0 {
            line.push_str(&format!(", {left} not taken within {}s without an answer (they stay)", patience.as_secs()));
        }
        written(writeln!(out, "{line}"))?;
        worst = match (left, refused, worst) {
            (1.., _, _) | (_, _, Done::Left) => Done::Left,
            (_, 1.., _) | (_, _, Done::Refused) => Done::Refused,
            _ => Done::All,
        };
    }
    Ok(worst)
}

/// The letters of one sink on their way.
struct OneSink<'a> {
    dir: &'a Path,
    marks: &'a mut Marks,
    name: &'a str,
    /// All of them, in order: number, sent again.
    numbers: &'a mut Vec<(u64, bool)>,
    refused: u64,
}

/// How far one sink got.
#[derive(Default)]
struct Sent {
    asked: u64,
    taken: u64,
}

impl OneSink<'_> {
    fn send(&mut self, mut sending: Replay, data: &Path, wanted: &Wanted<'_>) -> Result<Sent, String> {
        let mut sent = Sent::default();
        let mut saved = Instant::now();
        let mut goes_on = true;
        let name = self.name;
        let of_this = |letter: &Letter| letter.sink() == Some(name) && wanted.wants(letter);
        for letter in open(data)?.into_iter().flatten().filter(of_this) {
            // One that came after the first look waits for the next replay.
            if self.numbers.last().is_none_or(|(last, _)| letter.number > *last) {
                break;
            }
            sent.asked += 1;
            if !goes_on {
                continue;
            }
            let LetterOf::Sink { mut record, .. } = letter.of else { continue };
            goes_on = match sending.permit(record.cost()) {
                Some(permit) => {
                    *record.permit_mut() = permit;
                    sending.send(letter.number, *record)
                }
                None => false,
            };
            if saved.elapsed() >= SAVE {
                sent.taken += self.save(&mut sending)?;
                saved = Instant::now();
            }
        }
        sending.drain();
        sent.taken += self.save(&mut sending)?;
        Ok(sent)
    }

    /// Notes what has ended; gives how many of it were delivered.
    fn save(&mut self, sending: &mut Replay) -> Result<u64, String> {
        let mut taken = 0;
        for (number, outcome) in sending.take_ended()? {
            if outcome != Outcome::Delivered {
                self.refused += 1;
                continue;
            }
            if let Ok(at) = self.numbers.binary_search_by_key(&number, |(number, _)| *number) {
                self.numbers[at].1 = true;
                taken += 1;
            }
        }
        if taken > 0 {
            self.marks.note(self.name, self.numbers);
            self.marks.save(self.dir).map_err(|error| format!("{}: {error}", self.dir.display()))?;
        }
        Ok(taken)
    }
}
