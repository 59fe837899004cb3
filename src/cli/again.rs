//! The words of `dead-letters` and `replay`: what has been somewhere is sent there again.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::DataFolder;

pub(super) const DEAD_LETTERS_EXAMPLES: &str = "\
Examples:
  longshore dead-letters list --config /etc/longshore.toml
  longshore dead-letters show --config c.toml --sink central | jq .record
  longshore dead-letters show --config c.toml 17 18            these two, by the numbers that `list` shows
  longshore dead-letters show --config c.toml --raw 19 | xxd   the bytes of one that an input refused
  longshore dead-letters replay --config c.toml --sink central send them again, after the cause was put right

`list` and `show` work beside a running longshore, and so does `replay`, but for a sink that writes files: those are
locked, so stop it first. `replay` exits 1 if records were refused again, 3 if some were not taken in time; both stay.
What an input refused never was a record: `replay` leaves it, and says so.";

pub(super) const REPLAY_EXAMPLES: &str = "\
Examples:
  longshore replay --config c.toml --sink central --from 2026-11-24T10:00:00Z --to 2026-11-24T11:00:00Z

Sends what went through the disk log for that sink and was delivered, by the time when it was received. What `[buffer] keep`
does not keep is gone. Works beside a running longshore, but for a sink that writes files. Exits 1 if records were refused
or damaged, 3 if some were not taken in time.";

/// `longshore replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// The configuration: its data folder and its sinks
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// The data folder, where longshore was started with --data-dir
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The sink
    #[arg(long, value_name = "NAME")]
    pub sink: String,
    /// What was received at this time and later, with its zone: 2026-11-24T10:00:00Z
    #[arg(long, value_name = "TIME")]
    pub from: String,
    /// And before this one [default: up to now]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Seconds without anything being taken until it gives up
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
}

/// `longshore dead-letters`.
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// Print one line for each: number, time, input, sink or `refused`, tag, reason
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    List {
        /// The folder.
        #[command(flatten)]
        place: DataFolder,
        /// Only those of this sink
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Print them with their records, one JSON object a line
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    Show {
        /// The folder.
        #[command(flatten)]
        place: DataFolder,
        /// Only those of this sink
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// The bytes of one that an input refused, as they came, and nothing else
        #[arg(long, requires = "numbers", conflicts_with = "sink")]
        raw: bool,
        /// Only these [default: all]
        #[arg(value_name = "NUMBER")]
        numbers: Vec<u64>,
    },
    /// Send them again through their sinks, and say how many were taken
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    Replay {
        /// The configuration: its data folder and its sinks
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
        /// The data folder, where longshore was started with --data-dir
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Only those of this sink
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// Only these [default: all]
        #[arg(value_name = "NUMBER")]
        numbers: Vec<u64>,
        /// Seconds without anything being taken until it gives up
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86_400))]
        patience: u64,
    },
}
