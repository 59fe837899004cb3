//! The whole configuration file -> [`Config`], or a [`Report`] of everything that is wrong with it, in one run and in
//! the order of the file.
//!
//! Sections: `[node]`, `[inputs.NAME]`, `[pipeline]`, `[buffer]`, `[dead_letters]`, `[sinks.NAME]`, `[telemetry]`. Inputs, sinks and steps
//! read their own sections; what is known here is the frame around them, the names, the memory, and which sink can get
//! anything at all. Flags win over the environment (`LOG_LEVEL`, `LOG_FORMAT`), which wins over the file.
//!
//! Limits: a file of [`FILE_MAX`] bytes, [`INPUTS_MAX`] inputs, [`SINKS_MAX`] sinks, names of [`NAME_MAX`] characters.

mod buffer;
mod dead_letters;
mod explain;
pub mod memory;
mod node;
mod reach;
mod report;
mod sections;
mod telemetry;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

pub use explain::Setting;
use node::DATA_DIR_DEFAULT;
pub use report::{Report, Shown, plural};

use crate::buffer::Full;
use crate::inputs::{INPUTS, Input, InputKind};
use crate::log;
use crate::pipeline::Pipeline;
use crate::pipeline::route::SINKS_MAX;
use crate::profile;
use crate::settings::{Doc, Severity};
use crate::sinks::{SINKS, Sink, SinkKind};

/// Bytes of a configuration file, at most.
pub const FILE_MAX: u64 = 1 << 20;
/// Inputs, at most.
pub const INPUTS_MAX: usize = 64;
/// Characters of a name, at most.
pub const NAME_MAX: usize = 64;
/// Where `/health`, `/ready`, `/live` and `/metrics` are answered when nothing is configured.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:9600";

/// Everything that the node is made from.
pub struct Config {
    /// `[node]`.
    pub node: Node,
    /// `[inputs.NAME]`, in the order of the file.
    pub inputs: Vec<Named<Box<dyn Input>>>,
    /// `[pipeline]`.
    pub pipeline: Pipeline,
    /// How many steps it has.
    pub steps: usize,
    /// `[buffer]`.
    pub buffer: Buffer,
    /// `[dead_letters] size`: bytes on the disk, at most; `None`: 64 MiB, or a sixteenth of the file system where that is
    /// less.
    pub dead_letters: Option<u64>,
    /// `[sinks.NAME]`, in the order of the file.
    pub sinks: Vec<Named<Box<dyn Sink>>>,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// The file's name as it was given.
    pub file: String,
    /// Warnings only: for the own log, or for `check`.
    pub warnings: Report,
    /// Every setting with its origin.
    pub settings: Vec<Setting>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({})", self.summary())
    }
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The only folder that is written to, beside what file sinks write.
    pub data_dir: PathBuf,
    /// The memory budget in bytes.
    pub memory: usize,
    /// Threads of the runtime.
    pub workers: usize,
    /// Time from the word to stop until what is not delivered is left.
    pub shutdown_timeout: Duration,
    /// The folder that `secret:x` reads from.
    pub secrets: PathBuf,
}

/// `[buffer]`: the disk log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Bytes on the disk, at most; `None`: 1 GiB, or a quarter of the file system where that is less.
    pub size: Option<u64>,
    /// What happens when it is full.
    pub full: Full,
    /// How long what was delivered is kept.
    pub keep: Option<Duration>,
}

/// An input or a sink with what the frame knows of it.
pub struct Named<T> {
    /// Its name in the file.
    pub name: String,
    /// Its `type`.
    pub kind: &'static str,
    /// The patterns of its `match` (a sink), or of the tags that its records can have (an input).
    pub tags: Vec<String>,
    /// What it reads or where it writes, as the file says it: for people.
    pub about: Vec<String>,
    /// Whether the others wait for it when it has no room (a sink).
    pub required: bool,
    /// Its section as it is written, without places: what tells whether a reload has to replace it. Never shown, since a
    /// secret may stand in it.
    pub written: String,
    /// The configured thing.
    pub part: T,
}

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Where health and metrics are answered; `None` for "off".
    pub listen: Option<SocketAddr>,
    /// The own log.
    pub log: log::Settings,
}

/// What flags say, stronger than the environment and the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
}

/// The kinds of inputs and sinks that a configuration can name.
#[derive(Clone, Copy)]
pub struct Kinds {
    /// The inputs.
    pub inputs: &'static [InputKind],
    /// The sinks.
    pub sinks: &'static [SinkKind],
}

/// Everything of this build.
pub const KINDS: Kinds = Kinds { inputs: INPUTS, sinks: SINKS };

/// Where a configuration comes from.
pub struct Source<'a> {
    /// Its name in messages.
    pub name: &'a str,
    /// The document.
    pub text: &'a str,
    /// Looks up a variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The root of the file system, for the cgroup's files: `/` but in tests.
    pub root: &'a Path,
    /// What can be named.
    pub kinds: Kinds,
}

/// Reads the file at `path`; `-` is standard input.
///
/// # Errors
/// Everything that is wrong with it, warnings included, in the order of the file.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config, Report> {
    let (name, text) = slurp(path)?;
    load_text(&name, &text, overrides)
}

/// The name and the text of the file at `path`, not looked at yet: for who wants to know whether it has changed.
///
/// # Errors
/// It can not be read, or is no configuration at all.
pub fn text_of(path: &Path) -> Result<(String, String), Report> {
    slurp(path)
}

/// The same for a document that was made in memory.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str, overrides: &Overrides) -> Result<Config, Report> {
    let env = |name: &str| std::env::var(name).ok();
    read(&Source { name, text, env: &env, root: Path::new("/"), kinds: KINDS }, overrides)
}

/// The data folder that a command's words name: the folder itself, that of a configuration, or the default one.
///
/// # Errors
/// The configuration's.
pub fn data_folder(config: Option<&Path>, folder: Option<&Path>) -> Result<PathBuf, String> {
    match (folder, config) {
        (Some(folder), _) => Ok(folder.to_owned()),
        (None, Some(file)) => match load(file, &Overrides::default()) {
            Ok(config) => Ok(config.node.data_dir),
            Err(report) => Err(report.to_string()),
        },
        (None, None) => Ok(PathBuf::from(DATA_DIR_DEFAULT)),
    }
}

/// Only the address of health and metrics, without reading secrets or other sections: for `healthcheck`. Mistakes
/// elsewhere in the file do not matter to it.
///
/// # Errors
/// What is wrong with the file or the address.
pub fn listen_of(path: &Path) -> Result<Option<SocketAddr>, Report> {
    let (name, text) = slurp(path)?;
    let env = |name: &str| std::env::var(name).ok();
    let doc = Doc::new(&name, &text, env);
    let (table, syntax) = DeTable::parse_recoverable(&text);
    for error in &syntax {
        doc.error(error.span().unwrap_or(0..0), error.message().to_owned());
    }
    let listen = sections::listen(&doc, table.get_ref());
    let report = Report::of(&doc);
    if report.is_fatal() { Err(report) } else { Ok(listen) }
}

/// The file's name and text.
fn slurp(path: &Path) -> Result<(String, String), Report> {
    let stdin = path == Path::new("-");
    let name = if stdin { "<stdin>".to_owned() } else { path.display().to_string() };
    let mut bytes = Vec::new();
    let outcome = if stdin {
        std::io::stdin().lock().take(FILE_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes))
    };
    if let Err(error) = outcome {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "; config.example.toml in the repository is one to start from",
            _ => "",
        };
        return Err(Report::error(
            &name,
            format!("the configuration can not be read: {}{hint}", profile::named(&error)),
        ));
    }
    if bytes.len() as u64 > FILE_MAX {
        return Err(Report::error(&name, "larger than 1 MiB; this is no configuration file"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((name, text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(Report::error(
                &format!("{name}:{line}"),
                format!("byte {at} is not UTF-8; a configuration is UTF-8 text"),
            ))
        }
    }
}

/// Reads a document.
///
/// # Errors
/// As [`load`].
pub fn read(source: &Source<'_>, overrides: &Overrides) -> Result<Config, Report> {
    let doc = Doc::new(source.name, source.text, source.env);
    let (table, syntax) = DeTable::parse_recoverable(source.text);
    let config = sections::read(&doc, table.get_ref(), source, overrides);
    let mut report = if syntax.is_empty() { Report::of(&doc) } else { with_syntax(source, &doc, &syntax) };
    for message in config.1 {
        report.push(Severity::Error, "environment", message);
    }
    if report.is_fatal() {
        return Err(report);
    }
    let mut config = config.0;
    config.warnings = report;
    Ok(config)
}

/// Syntax errors, and of the others those that can not follow from them: findings on lines that were read whole, but
/// nothing that says that something is missing.
fn with_syntax(source: &Source<'_>, found: &Doc<'_>, syntax: &[toml::de::Error]) -> Report {
    let doc = Doc::new(source.name, source.text, source.env);
    let line = |at: usize| source.text[..source.text.floor_char_boundary(at)].matches('\n').count();
    let mut broken = Vec::new();
    for error in syntax {
        let span = error.span().unwrap_or(0..0);
        broken.push(line(span.start));
        doc.error(span, error.message().replace('\n', ", "));
    }
    for finding in found.findings() {
        let own = !finding.span.is_empty() && !finding.message.contains("missing");
        if own && finding.severity == Severity::Error && !broken.contains(&line(finding.span.start)) {
            doc.error(finding.span, finding.message);
        }
    }
    Report::of(&doc)
}

impl Config {
    /// One line: what `check` says.
    pub fn summary(&self) -> String {
        fn names<T>(all: &[Named<T>]) -> String {
            all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")
        }
        format!(
            "{} ({}), {}, {} ({}), memory {}",
            plural(self.inputs.len(), "input"),
            names(&self.inputs),
            plural(self.steps, "step"),
            plural(self.sinks.len(), "sink"),
            names(&self.sinks),
            memory::mib(self.node.memory as u64),
        )
    }

    /// Every setting with its origin: what `check --explain` says. Secrets are `***`.
    pub fn explain(&self) -> String {
        explain::render(&self.settings)
    }
}

#[cfg(test)]
mod tests;

const _: () = assert!(SINKS_MAX <= 64 && INPUTS_MAX <= u16::MAX as usize);
