//! The command line: its words, its help, and what each flag is called. What the words do is in `main.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::bench::generate::Shape;
use crate::bench::scale::Axis;
use crate::bench::work::Work;

mod again; // the words of `dead-letters` and `replay`

use again::{DEAD_LETTERS_EXAMPLES, REPLAY_EXAMPLES};
pub use again::{DeadLetters, Replay};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for run: stopped, and everything that was read is delivered
  1  the configuration is wrong, or the start or the command failed; for audit: it does not close
  2  wrong usage of the command line
  3  not everything could be delivered before the time to stop was over: a backlog stays in the disk log
A closed standard output (`longshore tail x | head`) is a success.";

const MAIN_EXAMPLES: &str = "\
Examples:
  longshore run --config config.example.toml      the whole thing
  longshore check config.toml                     all mistakes of a configuration at once
  longshore tail /var/lib/docker/containers       all containers, no configuration
  echo '{\"msg\":\"hello\"}' | longshore send --tag api.test
  longshore healthcheck --ready                   for HEALTHCHECK in a container";

const RUN_EXAMPLES: &str = "\
Examples:
  longshore run --config config.example.toml
  LOG_LEVEL=debug longshore run --config /etc/longshore.toml
  longshore run --config config.toml --data-dir \"$(mktemp -d)\"    read everything again

Signals: SIGTERM or SIGINT stops reading, delivers what was read, saves checkpoints and exits; a second one cuts that
short. SIGHUP reads the configuration again and puts it in force, if it has no mistakes, and opens output files anew.";

const CHECK_EXAMPLES: &str = "\
Examples:
  longshore check config.toml
  longshore check --explain config.toml           every setting in effect, and where it comes from
  cat config.toml | longshore check -

Warnings do not change the exit code.";

const TAIL_EXAMPLES: &str = "\
Examples:
  longshore tail /var/log/app.log                 from its start, then what is appended
  longshore tail --start tail '/var/log/app/*.log'
  longshore tail /var/lib/docker/containers       Docker's folder is recognised
  longshore tail --no-follow app.log | jq .level
  kubectl logs x | longshore tail --format pretty -";

const SEND_EXAMPLES: &str = "\
Examples:
  echo '{\"level\":\"info\",\"msg\":\"hello\"}' | longshore send --tag api.test
  longshore send --to unix:///run/longshore/forward.sock --tag syslog --format text < /var/log/syslog
  longshore send --to tls://logs.example.com --ca ca.pem --shared-key-file key --compress zstd < records.ndjson
  longshore send --rate 10000 --count 600000 --connections 4 < records.ndjson    load: a minute of these records
  longshore send --mode message --count 1000 < /dev/null                         as loggers send, one ack a record

A line is one record: a JSON object, or with --format text (and where it is no JSON) {\"log\": line}. With acks (the
default) it exits 0 only when the receiver has acknowledged every record. Figures are told on standard error.";

const BENCH_EXAMPLES: &str = "\
Examples:
  longshore bench                                 every work, three times each
  longshore bench docker-file --records 1000000
  longshore bench docker-file forward-file --peer fluent-bit=/usr/bin/fluent-bit --peer vector=/usr/bin/vector
  longshore bench line-file --shape escaped --format json
  longshore bench --scale line-size --scale containers --svg plots

Every shipper is a process of its own and gets the same input; every record of its output is parsed and compared. CPU
time is user and system time of that process. Runs take turns, figures are medians. Exits 1 if a shipper fails, if anything
is missing or wrong, of anybody, and if something of longshore's own comes twice or, in a file, out of order.";

const HEALTH_EXAMPLES: &str = "\
Examples:
  longshore healthcheck                           asks /live on 127.0.0.1:9600
  longshore healthcheck --ready --config /etc/longshore.toml
  HEALTHCHECK CMD [\"/longshore\", \"healthcheck\"]

Exits 0 when the answer is 2xx, else 1 with the reason.";

const AUDIT_EXAMPLES: &str = "\
Examples:
  longshore audit --config /etc/longshore.toml    the ledger for people; exit 1 if it does not close
  longshore audit --config c.toml --format json | jq .pairs

For each input: received = dropped + passed. For each input and sink: routed = delivered + rejected + dropped + returned
+ buffered + in flight. A running node is asked through its [telemetry] listen; of a stopped one the data folder is read.";

const CHECKPOINTS_EXAMPLES: &str = "\
Examples:
  longshore checkpoints list --config /etc/longshore.toml
  longshore checkpoints list --data-dir /var/lib/longshore --json | jq .
  longshore checkpoints set files /var/log/app.log --end         skip what is there now
  longshore checkpoints set containers 0123456789ab --offset 0 --file /var/lib/docker/containers/ID/ID-json.log
  longshore checkpoints forget files /var/log/app.log            read it again from its head

`set` and `forget` need longshore to be stopped; `list` does not. A key may be cut short where that is unique.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  longshore completions bash > /etc/bash_completion.d/longshore
  longshore completions zsh > \"${fpath[1]}/_longshore\"
  longshore completions fish > ~/.config/fish/completions/longshore.fish";

/// Ships structured logs: Docker logs, files and the Fluentd forward protocol in; files, HTTP and forward out.
#[derive(Debug, Parser)]
#[command(
    name = "longshore",
    version = env!("LONGSHORE_VERSION"),
    after_help = format!("{MAIN_EXAMPLES}\n\n{EXIT_CODES}"),
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run with a configuration until told to stop
    #[command(after_help = format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}"))]
    Run(Run),
    /// Check a configuration: every mistake with its place, nothing is started
    #[command(after_help = format!("{CHECK_EXAMPLES}\n\n{EXIT_CODES}"))]
    Check(Check),
    /// Follow files or Docker's folder to standard output, without a configuration
    #[command(after_help = format!("{TAIL_EXAMPLES}\n\n{EXIT_CODES}"))]
    Tail(Tail),
    /// Send records from standard input to a forward receiver
    #[command(after_help = format!("{SEND_EXAMPLES}\n\n{EXIT_CODES}"))]
    Send(Send),
    /// Measure: throughput, CPU time, memory, latency, losses; beside peers if asked
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Bench),
    /// Ask a running longshore whether it is well
    #[command(after_help = HEALTH_EXAMPLES)]
    Healthcheck(Healthcheck),
    /// Print what became of every record: per input and sink, and whether it adds up
    #[command(after_help = format!("{AUDIT_EXAMPLES}\n\n{EXIT_CODES}"))]
    Audit(Audit),
    /// Show, move or remove the places where followed files were left
    #[command(subcommand, after_help = CHECKPOINTS_EXAMPLES)]
    Checkpoints(Checkpoints),
    /// Show records that sinks refused for good, and send them again
    #[command(subcommand, after_help = DEAD_LETTERS_EXAMPLES)]
    DeadLetters(DeadLetters),
    /// Send a sink once more what it was given between two times, from what the disk log keeps
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(Replay),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(Completions),
}

/// Flags of the own log: stronger than LOG_LEVEL and LOG_FORMAT, which are stronger than the file.
#[derive(Clone, Debug, Default, Args)]
pub struct LogFlags {
    /// Own log on standard error: error, warn, info, debug, trace [else $LOG_LEVEL, the file, info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Own log as text or json [else $LOG_FORMAT, the file, text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// `longshore run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The configuration file (TOML); `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// Keep checkpoints in this folder instead of the file's [node] data_dir
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Take over from the longshore that runs with the same data folder: its listening sockets at once, its place as
    /// soon as it has delivered what it read; no connection is refused in between
    #[arg(long)]
    pub take_over: bool,
    /// The own log.
    #[command(flatten)]
    pub log: LogFlags,
}

/// `longshore check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The configuration file; `-` is standard input
    #[arg(value_name = "FILE", required_unless_present = "config")]
    pub file: Option<PathBuf>,
    /// The same, as `run` has it
    #[arg(long, short, value_name = "FILE", conflicts_with = "file")]
    pub config: Option<PathBuf>,
    /// Print every setting in effect with its origin (secrets never)
    #[arg(long)]
    pub explain: bool,
}

/// How `tail` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TailFormat {
    /// One JSON object a line
    Json,
    /// For people
    Pretty,
}

/// Where `tail` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Start {
    /// At the first line that is there
    Head,
    /// At the end: only new lines
    Tail,
}

/// How the lines of a file are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LineFormat {
    /// By the first line of each file
    Auto,
    /// Lines of text; a JSON object in one is parsed
    Text,
    /// A JSON object a line
    Json,
    /// Kubernetes: `TIME stdout F text`
    Cri,
    /// Docker's json-file
    Docker,
}

/// `longshore tail`.
#[derive(Debug, Args)]
pub struct Tail {
    /// Files, globs, a folder of Docker containers, or `-` for standard input
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "json")]
    pub format: TailFormat,
    /// Go on with what is appended (the default)
    #[arg(long, short, overrides_with = "no_follow")]
    pub follow: bool,
    /// Stop at the end of what is there now
    #[arg(long)]
    pub no_follow: bool,
    /// Where to begin
    #[arg(long, value_enum, default_value = "head")]
    pub start: Start,
    /// How the files' lines are read
    #[arg(long, value_enum, default_value = "auto")]
    pub lines: LineFormat,
    /// The own log.
    #[command(flatten)]
    pub log: LogFlags,
}

/// How `send` reads its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SendFormat {
    /// Each line is the record {"log": line}
    Text,
    /// Each line is a JSON object
    Json,
}

/// How the frames of `send` look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SendMode {
    /// One record a frame
    Message,
    /// An array of entries
    Forward,
    /// Entries back to back
    Packed,
    /// The same, compressed
    Compressed,
}

/// How entries of `send` are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SendCompression {
    /// Every receiver knows it
    Gzip,
    /// Faster and smaller; longshore and Fluentd 1.19
    Zstd,
}

/// `longshore send`.
#[derive(Debug, Args)]
pub struct Send {
    /// The receiver: HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH
    #[arg(long, value_name = "ADDRESS", default_value = "tcp://127.0.0.1:24224")]
    pub to: String,
    /// The tag of the records
    #[arg(long, short, default_value = "longshore.send")]
    pub tag: String,
    /// What the lines are
    #[arg(long, short, value_enum, default_value = "json")]
    pub format: SendFormat,
    /// Wait for the receiver's acknowledgement (the default)
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "no_ack")]
    pub ack: bool,
    /// Do not wait: faster, and nobody knows what arrived
    #[arg(long, action = ArgAction::SetTrue)]
    pub no_ack: bool,
    /// Seconds to wait for an ack before the frame is sent again
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub ack_timeout: u64,
    /// How frames look
    #[arg(long, value_enum, default_value = "packed")]
    pub mode: SendMode,
    /// Compress the entries of each frame
    #[arg(long, value_enum)]
    pub compress: Option<SendCompression>,
    /// Records in one frame, at most
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_batch)]
    pub batch: usize,
    /// Records a second, at most [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Send N records in all: the lines over and over, or made-up ones where there are none [default: each line once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Connections at once; more than one does not keep the order
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// For tls://: trust these certificates (PEM) and no others [default: the machine's]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// For tls://: the client's certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert_key")]
    pub cert: Option<PathBuf>,
    /// For tls://: the client's key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub cert_key: Option<PathBuf>,
    /// For tls://: the name in the receiver's certificate [default: the host of --to]
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// The file with the key that this side and the receiver share
    #[arg(long, value_name = "FILE")]
    pub shared_key_file: Option<PathBuf>,
    /// The user, where the receiver asks for one
    #[arg(long, value_name = "NAME", requires = "password_file", requires = "shared_key_file")]
    pub user: Option<String>,
    /// The file with the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
}

fn parse_batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("expected a number from 1 to 1000000".to_owned()),
    }
}

/// `longshore healthcheck`.
#[derive(Debug, Args)]
pub struct Healthcheck {
    /// Ask /ready (started, not stopping) instead of /live (a restart would not help)
    #[arg(long)]
    pub ready: bool,
    /// Take the address from this configuration's [telemetry] listen
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address itself [default: 127.0.0.1:9600]
    #[arg(long, value_name = "IP:PORT", conflicts_with = "config")]
    pub address: Option<SocketAddr>,
}

/// How `audit` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditFormat {
    /// The equations, for people
    Text,
    /// One JSON object
    Json,
}

/// `longshore audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// The node's configuration file
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// The node's data folder, where it was started with --data-dir
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: AuditFormat,
}

/// How `bench` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    /// A table a work
    Text,
    /// One JSON object
    Json,
}

/// `longshore bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What is measured; everything without it
    #[arg(value_enum, value_name = "WORK")]
    pub works: Vec<Work>,
    /// Records of one run
    #[arg(long, short = 'n', default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
    /// Runs of each shipper at each work
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repeats: u16,
    /// What the records look like
    #[arg(long, value_enum, default_value = "normal")]
    pub shape: Shape,
    /// Fill records up, and cut those of the shape text, to about so many bytes, 1 MiB at most
    #[arg(long, value_name = "BYTES")]
    pub line_size: Option<usize>,
    /// Containers that the lines are dealt out to
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub containers: u32,
    /// Connections of forward senders
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub connections: u32,
    /// Records a second while latency is measured, after the backlog [default: 5000; rotate: 100000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Seconds for which latency is measured; 0 leaves it out. Without a meaning for rotate, which takes --records over --rate
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(..=3600))]
    pub seconds: u16,
    /// Threads that read and parse for longshore, at works with Docker's files, 1 to 64 [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub readers: Option<u8>,
    /// Another shipper on the same work: fluent-bit=PATH, vector=PATH, longshore=PATH (another build)
    #[arg(long, value_name = "KIND=PATH")]
    pub peer: Vec<String>,
    /// Where input and output are written, and removed again [default: the folder of temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Instead of works: measure over a row of points and draw it
    #[arg(long, value_enum, value_name = "AXIS", conflicts_with = "works")]
    pub scale: Vec<Axis>,
    /// Where --scale writes its plots
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub svg: PathBuf,
    /// How to report
    #[arg(long, value_enum, default_value = "text")]
    pub format: BenchFormat,
}

/// The data folder of a node that runs or has run.
#[derive(Debug, Args)]
pub struct DataFolder {
    /// The configuration whose [node] data_dir it is
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The folder itself [default: /var/lib/longshore]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub data_dir: Option<PathBuf>,
}

/// `longshore checkpoints`.
#[derive(Debug, Subcommand)]
pub enum Checkpoints {
    /// Print where each container and file was left
    #[command(after_help = CHECKPOINTS_EXAMPLES)]
    List {
        /// The folder.
        #[command(flatten)]
        place: DataFolder,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Say where the next start goes on
    #[command(after_help = CHECKPOINTS_EXAMPLES)]
    Set {
        /// The folder.
        #[command(flatten)]
        place: DataFolder,
        /// The input's name in the configuration
        input: String,
        /// The container's id or the file's path, as `list` shows it
        key: String,
        /// The file that the place is in [default: the key, if it is a path]
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// Bytes before the place: the start of a line
        #[arg(long, value_name = "N", required_unless_present = "end")]
        offset: Option<u64>,
        /// After the last whole line
        #[arg(long, conflicts_with = "offset")]
        end: bool,
    },
    /// Remove a place: the next start reads from the head
    #[command(after_help = CHECKPOINTS_EXAMPLES)]
    Forget {
        /// The folder.
        #[command(flatten)]
        place: DataFolder,
        /// The input's name in the configuration
        input: String,
        /// The container's id or the file's path, as `list` shows it
        key: String,
    },
}

/// `longshore completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        Cli::command().debug_assert();
        let mut command = Cli::command();
        for sub in command.get_subcommands_mut() {
            let help = sub.render_help().to_string();
            assert!(help.contains("Examples:\n  "), "{help}");
        }
        let help = command.render_help().to_string();
        assert!(help.contains("Exit codes:\n  0  ") && help.contains("\n  3  "), "{help}");
    }

    #[test]
    fn wrong_usage_is_an_error_of_kind_2_and_help_is_none() {
        for words in
            [&["longshore", "run"][..], &["longshore", "chek"], &["longshore", "tail"], &["longshore", "check"]]
        {
            assert_eq!(Cli::try_parse_from(words).expect_err("wrong usage").exit_code(), 2, "{words:?}");
        }
        assert_eq!(Cli::try_parse_from(["longshore", "--version"]).expect_err("not a command").exit_code(), 0);
        let send = Cli::try_parse_from(["longshore", "send", "--no-ack", "--ack"]).expect("the last one wins");
        assert!(matches!(send.command, Command::Send(Send { ack: true, no_ack: false, .. })));
    }
}
