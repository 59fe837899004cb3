//! The program: reads the command line, calls what it names, and ends with its exit code.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use longshore::bench::{self, generate::Recipe};
use longshore::cli::{
    Audit, AuditFormat, Bench, BenchFormat, Check, Cli, Command, Completions, Healthcheck, LogFlags, Run, Send, Tail,
};
use longshore::config::{self, Config, Overrides, Report};
use longshore::{audit, checkpoints, healthcheck, letters, log, run, send, tail};

/// The configuration is wrong, or the start or the command failed.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, mistakes to standard error; a closed one is no mistake.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    ExitCode::from(match cli.command {
        Command::Run(args) => run(args),
        Command::Check(args) => check(&args),
        Command::Tail(args) => tail(&args),
        Command::Send(args) => send(&args),
        Command::Bench(args) => bench(&args),
        Command::Healthcheck(args) => healthcheck(&args),
        Command::Audit(args) => audit(&args),
        Command::Checkpoints(words) => match checkpoints::run(&words) {
            Ok(text) => print(&text),
            Err(message) => fail(&format!("checkpoints: {message}")),
        },
        Command::DeadLetters(words) => again("dead-letters", |out| letters::run(&words, out)),
        Command::Replay(words) => again("replay", |out| longshore::again::run(&words, out)),
        Command::Completions(args) => completions(&args),
    })
}

fn run(args: Run) -> u8 {
    let overrides = overrides(args.log, args.data_dir);
    let program = std::env::args().next().unwrap_or_else(|| "longshore".to_owned());
    let (name, text) = match config::text_of(&args.config) {
        Ok(read) => read,
        Err(report) => return refuse(&report),
    };
    match config::load_text(&name, &text, &overrides) {
        Ok(config) => {
            // Standard input can not be read again.
            let origin = run::Origin { path: args.config.clone(), overrides, text };
            let origin = (args.config != Path::new("-")).then_some(origin);
            let program = Some(program);
            start(config, run::Options { once: false, program, take_over: args.take_over, origin })
        }
        Err(report) => refuse(&report),
    }
}

/// Starts the log, says the warnings, runs.
fn start(config: Config, options: run::Options) -> u8 {
    log::start(config.telemetry.log);
    for warning in &config.warnings.findings {
        tracing::warn!("{}: {}", warning.place, warning.message);
    }
    run::run(config, options)
}

fn overrides(flags: LogFlags, data_dir: Option<PathBuf>) -> Overrides {
    Overrides { log_level: flags.log_level, log_format: flags.log_format, data_dir }
}

fn check(args: &Check) -> u8 {
    let file = args.file.as_deref().or(args.config.as_deref()).unwrap_or(Path::new("-"));
    match config::load(file, &Overrides::default()) {
        Ok(config) => {
            log::tell(&config.warnings.render(log::color_wanted()));
            for input in &config.inputs {
                for warning in input.part.warnings() {
                    log::tell(&format!("warning: inputs.{}: {warning}\n", input.name));
                }
            }
            let explained = if args.explain { format!("{}\n", config.explain()) } else { String::new() };
            print(&format!("{explained}{}: ok: {}\n", config.file, config.summary()))
        }
        Err(report) => refuse(&report),
    }
}

fn tail(args: &Tail) -> u8 {
    let scratch = match Scratch::new() {
        Ok(scratch) => scratch,
        Err(error) => return fail(&format!("tail: no folder for temporary data: {error}; set TMPDIR")),
    };
    let overrides = overrides(args.log.clone(), Some(scratch.0.clone()));
    let text = match tail::document(args) {
        Ok(text) => text,
        Err(message) => return fail(&format!("tail: {message}")),
    };
    match config::load_text("tail", &text, &overrides) {
        Ok(config) => start(config, run::Options { once: args.no_follow, ..run::Options::default() }),
        Err(report) => refuse(&report),
    }
}

fn send(args: &Send) -> u8 {
    match send::options(args).and_then(|options| send::run(&options)) {
        Ok(told) => {
            log::tell(&format!("longshore: {told}\n"));
            0
        }
        Err(message) => fail(&format!("send: {message}")),
    }
}

fn bench(args: &Bench) -> u8 {
    let options = bench::Options {
        works: args.works.clone(),
        recipe: Recipe { shape: args.shape, line_size: args.line_size },
        records: args.records,
        repeats: args.repeats.into(),
        containers: args.containers as usize,
        connections: args.connections as usize,
        readers: args.readers,
        rate: args.rate.map(f64::from),
        seconds: args.seconds.into(),
        peers: args.peer.clone(),
        dir: args.dir.clone(),
        scale: args.scale.clone(),
        svg: args.svg.clone(),
    };
    let done = match bench::run(&options, &|text| log::tell(&format!("{text}\n"))) {
        Ok(done) => done,
        Err(error) => return fail(&format!("bench: {error}")),
    };
    let report = match args.format {
        BenchFormat::Json => format!("{}\n", done.json()),
        BenchFormat::Text => done.text(),
    };
    match print(&report) {
        0 if done.is_whole() => 0,
        0 => fail("bench: a shipper failed or ended badly, or records are missing, wrong, out of order or there twice"),
        code => code,
    }
}

fn healthcheck(args: &Healthcheck) -> u8 {
    let listen = match (&args.config, args.address) {
        (_, Some(address)) => Ok(Some(address)),
        (Some(file), None) => config::listen_of(file),
        (None, None) => Ok(config::LISTEN_DEFAULT.parse().ok()),
    };
    let address = match listen {
        Ok(Some(address)) => address,
        Ok(None) => return fail("healthcheck: [telemetry] listen is \"off\": there is nothing to ask"),
        Err(report) => return refuse(&report),
    };
    match healthcheck::ask(address, if args.ready { "/ready" } else { "/live" }) {
        Ok(answer) => print(&format!("{answer}\n")),
        Err(message) => fail(&format!("healthcheck: {message}")),
    }
}

fn audit(args: &Audit) -> u8 {
    let overrides = overrides(LogFlags::default(), args.data_dir.clone());
    let config = match config::load(&args.config, &overrides) {
        Ok(config) => config,
        Err(report) => return refuse(&report),
    };
    match audit::audit(&config) {
        Ok(found) => {
            let text = if args.format == AuditFormat::Json { found.json() } else { found.text() };
            print(&text).max(u8::from(!found.closes()))
        }
        Err(message) => fail(&format!("audit: {message}")),
    }
}

/// A command that sends again: its exit code.
fn again(name: &str, command: impl FnOnce(&mut dyn io::Write) -> Result<letters::Done, String>) -> u8 {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = command(&mut out).and_then(|done| match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(done),
    });
    match done {
        Ok(letters::Done::All) => 0,
        Ok(letters::Done::Refused) => FAILED,
        Ok(letters::Done::Left) => run::BACKLOG,
        Err(message) => fail(&format!("{name}: {message}")),
    }
}

fn completions(args: &Completions) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "longshore", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints to standard output. A reader that went away has seen what it wanted.
fn print(text: &str) -> u8 {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => fail(&format!("standard output: {error}")),
    }
}

fn fail(message: &str) -> u8 {
    log::tell(&format!("longshore: {}\n", log::Escaped(message)));
    FAILED
}

fn refuse(report: &Report) -> u8 {
    log::tell(&report.render(log::color_wanted()));
    FAILED
}

/// A folder for one run, removed at its end: `tail` keeps no checkpoints.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut tries = 0;
        loop {
            let path = std::env::temp_dir().join(format!("longshore-tail-{}-{tries}", std::process::id()));
            // Made new and for this user alone: a folder that is there already may be somebody else's.
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < 100 => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is an empty folder under the temporary ones.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
