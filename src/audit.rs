//! `longshore audit`: the ledger of a node, running or stopped, and whether it closes.
//!
//! A running node is asked at its `/audit`; of a stopped one the ledger saved with the checkpoints is read, and what the
//! disk log has is counted again. Nothing is written: root may audit what belongs to the service's user.

use crate::config::Config;
use crate::disk_log::{self, with_way_out};
use crate::healthcheck;
use crate::inputs::follow::checkpoint::{self, Checkpoints};
use crate::ledger::Ledger;
use crate::metrics::Metrics;

/// What was found.
#[derive(Debug)]
pub struct Audit {
    /// The equations.
    pub ledger: Ledger,
    /// Differences between what an orderly stop saved and what the disk log has.
    pub wrong: Vec<String>,
    /// The node runs.
    pub running: bool,
    /// A ledger was saved here.
    pub is_saved: bool,
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
            (false, false) if !self.is_saved => "the node is stopped, and has saved no ledger yet",
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
    if Checkpoints::is_locked(dir) {
        return ask(config);
    }
    let read = checkpoint::stored_ledger(dir).map_err(|error| with_way_out(dir, error).to_string())?;
    let inputs: Vec<_> = config.inputs.iter().map(|input| (input.name.as_str(), input.kind)).collect();
    let sinks: Vec<_> = config.sinks.iter().map(|sink| (sink.name.as_str(), sink.kind)).collect();
    let metrics = Metrics::new(&inputs, &sinks);
    let (id, backlog) = disk_log::count(config, &metrics).map_err(|error| error.to_string())?;
    let is_saved = read.is_some();
    let saved = read.map(|read| Ledger::from_json(&read)).unwrap_or_default().held_against(id);
    let wrong = saved.resume(&metrics, &backlog, &(0..sinks.len()).collect::<Vec<_>>());
    let ledger = Ledger { stopped: saved.stopped, ..Ledger::of(&metrics) };
    Ok(Audit { ledger, wrong, running: false, is_saved })
}

fn ask(config: &Config) -> Result<Audit, String> {
    let Some(address) = config.telemetry.listen else {
        return Err("the node runs, and its [telemetry] listen is \"off\": stop it first, or give it an address".into());
    };
    let answer = healthcheck::ask(address, "/audit")?;
    let value = serde_json::from_str(&answer).map_err(|error| format!("http://{address}/audit: {error}"))?;
    Ok(Audit { ledger: Ledger::from_json(&value), wrong: Vec::new(), running: true, is_saved: true })
}
