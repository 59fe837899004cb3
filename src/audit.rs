//! `longshore audit`: the ledger of a node, running or stopped, and whether it closes.
//!
//! A running node is asked at its `/audit`; of a stopped one the ledger saved with the checkpoints is read, and what the
//! disk log has is counted again. Nothing is changed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::disk_log;
use crate::healthcheck;
use crate::inputs::follow::checkpoint::Checkpoints;
use crate::ledger::Ledger;
use crate::metrics::Metrics;

/// How long the disk log may take to close.
const CLOSE: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug)]
pub struct Audit {
    /// The equations.
    pub ledger: Ledger,
    /// Differences between what an orderly stop saved and what the disk log has.
    pub wrong: Vec<String>,
    /// The node runs.
    pub running: bool,
}

impl Audit {
    /// Whether every record is accounted for.
    pub fn closes(&self) -> bool {
        self.wrong.is_empty() && self.ledger.closes()
    }

    /// For people.
    pub fn text(&self) -> String {
        let wrong: String = self.wrong.iter().map(|line| format!("{line}\n")).collect();
        let state = match (self.running, self.ledger.stopped) {
            (true, _) => "the node runs",
            (false, true) => "the node is stopped",
            (false, false) => "the node was killed: what was in memory only is returned, its origin gives it again",
        };
        format!("{state}\n{}{wrong}", self.ledger.text())
    }

    /// For programs.
    pub fn json(&self) -> String {
        let mut value = self.ledger.to_json();
        value["closes"] = self.closes().into();
        value["running"] = self.running.into();
        value["wrong"] = self.wrong.clone().into();
        format!("{value}\n")
    }
}

/// Audits the node of this configuration.
///
/// # Errors
/// There is nothing to audit, or it can not be read.
pub fn audit(config: &Config) -> Result<Audit, String> {
    let dir = &config.node.data_dir;
    if !dir.exists() {
        return Err(format!("{}: no longshore has run with this data folder", dir.display()));
    }
    let checkpoints = match Checkpoints::open(dir, Box::new(std::collections::BTreeMap::new)) {
        Ok(checkpoints) => checkpoints,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ask(config),
        Err(error) => return Err(error.to_string()),
    };
    let inputs: Vec<_> = config.inputs.iter().map(|input| (input.name.as_str(), input.kind)).collect();
    let sinks: Vec<_> = config.sinks.iter().map(|sink| (sink.name.as_str(), sink.kind)).collect();
    let metrics = Arc::new(Metrics::new(&inputs, &sinks));
    let numbers: Vec<usize> = (0..sinks.len()).collect();
    let (log, backlog) = disk_log::open(config, &metrics, &numbers, false).map_err(|error| error.to_string())?;
    let saved = checkpoints.take_ledger().map(|saved| Ledger::from_json(&saved)).unwrap_or_default();
    let wrong = saved.resume(&metrics, &backlog, &numbers);
    if let Some(log) = log {
        log.close(Instant::now() + CLOSE).map_err(|error| error.to_string())?;
    }
    let ledger = Ledger { stopped: saved.stopped, ..Ledger::of(&metrics) };
    Ok(Audit { ledger, wrong, running: false })
}

fn ask(config: &Config) -> Result<Audit, String> {
    let Some(address) = config.telemetry.listen else {
        return Err("the node runs, and its [telemetry] listen is \"off\": stop it first, or give it an address".into());
    };
    let answer = healthcheck::ask(address, "/audit")?;
    let value = serde_json::from_str(&answer).map_err(|error| format!("http://{address}/audit: {error}"))?;
    Ok(Audit { ledger: Ledger::from_json(&value), wrong: Vec::new(), running: true })
}
