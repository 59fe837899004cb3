//! `longshore replay`: what a sink was given between two times, sent to it once more from what `[buffer] keep` keeps of
//! the disk log. Works beside a running node, but for a sink whose files that node has locked.
//!
//! Only what the sink was done with is sent: its backlog comes by itself. Only what went through the disk log can be: all of
//! an input with `ack = "durable"`, of others what a sink was behind with. The ledger of the node knows nothing of it.

use std::io::Write;
use std::time::Duration;

use crate::batch::Outcome;
use crate::buffer::{Peek, Peeked};
use crate::cli::Replay as Words;
use crate::codec::stored_batch;
use crate::config::{self, Overrides};
use crate::disk_log::BUFFER;
use crate::letters::Done;
use crate::replay::{Options, Replay};

/// Does what the words say, with `out` as standard output.
///
/// # Errors
/// What is wrong, and the way out.
pub fn run(words: &Words, out: &mut dyn Write) -> Result<Done, String> {
    let from = milliseconds("--from", &words.from)?;
    let to = words.to.as_deref().map_or(Ok(u64::MAX), |to| milliseconds("--to", to))?;
    let overrides = Overrides { data_dir: words.data_dir.clone(), ..Overrides::default() };
    let mut config = config::load(&words.config, &overrides).map_err(|report| report.to_string())?;
    crate::log::start(config.telemetry.log);
    let Some(at) = config.sinks.iter().position(|sink| sink.name == words.sink) else {
        let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        return Err(format!("no sink is called \"{}\"; there is {}", words.sink, names.join(", ")));
    };
    let dir = config.node.data_dir.join(BUFFER);
    let none = || format!("{}: there is no disk log; `[buffer] keep` keeps what was delivered in it", dir.display());
    let mut peek = Peek::open(&dir).map_err(|error| format!("{}: {error}", dir.display()))?.ok_or_else(none)?;
    let named = config.sinks.remove(at);
    let patience = Duration::from_secs(words.patience);
    let options = Options { name: &words.sink, kind: named.kind, memory: config.node.memory, patience };
    let mut sending = Replay::start(named.part, &options)?;
    let (mut asked, mut damaged, mut goes_on) = (0, 0, true);
    while let Some(frame) = peek.next_frame() {
        let wanted = (from..to).contains(&frame.time_ms);
        if !wanted || !peek.is_for(&frame, &words.sink) || !peek.is_settled(&frame, &words.sink) {
            continue;
        }
        asked += u64::from(frame.records);
        match goes_on.then(|| hand_over(&mut sending, &frame)) {
            Some(Ok(taken)) => goes_on = taken,
            Some(Err(())) => damaged += u64::from(frame.records),
            None => {}
        }
    }
    sending.drain();
    let refused = sending.take_ended()?.iter().any(|(_, outcome)| *outcome != Outcome::Delivered);
    let (delivered, rejected) = sending.figures();
    let left = asked - delivered - rejected - damaged;
    let mut line = format!("{}: {delivered} records sent again", words.sink);
    for (count, what) in [(rejected, "refused"), (damaged, "damaged"), (left, "not taken in time")] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    if peek.damaged() > 0 {
        line.push_str(&format!("; {} frames of the log are damaged", peek.damaged()));
    }
    match writeln!(out, "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ if left > 0 => Ok(Done::Left),
        _ if refused || damaged + peek.damaged() > 0 => Ok(Done::Refused),
        _ => Ok(Done::All),
    }
}

/// `Ok(false)`: the sink has taken nothing for too long. `Err`: the frame can not be read.
fn hand_over(sending: &mut Replay, frame: &Peeked) -> Result<bool, ()> {
    let Some(permit) = sending.permit(stored_batch::memory(&frame.bytes)) else { return Ok(false) };
    let batch = stored_batch::decode(&frame.bytes, permit, 0).map_err(|_| ())?;
    Ok(sending.send(frame.lsn, batch))
}

/// A time of the command line in milliseconds since 1970.
fn milliseconds(flag: &str, text: &str) -> Result<u64, String> {
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("{flag} \"{text}\": write a time with its zone, such as 2026-11-24T10:15:00Z"))?;
    Ok(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_zone() {
        assert_eq!(milliseconds("--from", "1970-01-01T00:00:01.5Z"), Ok(1500));
        assert_eq!(milliseconds("--from", "1970-01-01T01:00:00+01:00"), Ok(0));
        let error = milliseconds("--to", "yesterday").expect_err("no time");
        assert!(error.contains("--to \"yesterday\"") && error.contains("2026-11-24T10:15:00Z"), "{error}");
        assert!(milliseconds("--to", "2026-11-24 10:15").is_err());
    }
}
