//! Who is measured, and the configuration that each gets for a work: the same input, the same steps, the same output,
//! buffers large enough that nobody waits for a setting.
//!
//! Fluent Bit: `tail` with 1 MiB reads and a position database, as longshore has its checkpoints; `Flush 0.2` (its
//! default is 1 s) so that its latency is its own; our HTTP batches wait as long, and so do Vector's (its default is 1 s, too).
//! Vector: else its defaults, one `remap` with the same parsing. For `durable` they keep what they took on disk (`storage.type
//! filesystem` with `storage.sync full`; a disk buffer), though neither waits for the disk before it acknowledges.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::work::{From, PATTERN, Work};

/// A kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This one, or another build of it.
    Longshore,
    /// Fluent Bit 2 or later.
    FluentBit,
    /// Vector 0.30 or later.
    Vector,
}

impl Kind {
    /// Whether `work` has to come out in the order of each container, file or connection. Our HTTP sink has several
    /// requests under way, and what peers promise is theirs to say.
    pub fn keeps_order(self, work: Work) -> bool {
        self == Kind::Longshore && !work.to_http()
    }

    /// Whether each record has to come out once: nothing is stopped or sent again here, so we have no reason for a second
    /// time, and what peers promise is theirs to say.
    pub fn delivers_once(self) -> bool {
        self == Kind::Longshore
    }

    /// Whether it has to end well when it is told to stop: with 0, since all is delivered by then, or of the signal. What peers
    /// mean by another status is theirs to say.
    pub fn ends_well(self) -> bool {
        self == Kind::Longshore
    }
}

/// One that is measured.
#[derive(Clone, Debug)]
pub struct Shipper {
    /// Its name in the report.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its program.
    pub program: PathBuf,
}

impl Shipper {
    /// Reads `KIND=PATH` of the command line.
    pub fn peer(text: &str) -> Result<Shipper, String> {
        let (kind, path) = text.split_once('=').ok_or_else(|| format!("{text:?}: expected KIND=PATH"))?;
        let known = match kind {
            "fluent-bit" => Kind::FluentBit,
            "vector" => Kind::Vector,
            "longshore" => Kind::Longshore,
            _ => return Err(format!("{kind:?}: expected fluent-bit, vector or longshore")),
        };
        // From the root on, since it is started in another folder.
        let program = std::path::absolute(path).map_err(|error| format!("{path}: {error}; expected a program"))?;
        if !program.is_file() {
            return Err(format!("{path}: no such program"));
        }
        let name = if known == Kind::Longshore { "longshore (other)" } else { kind };
        Ok(Shipper { name: name.to_owned(), kind: known, program })
    }
}

/// Where one run reads and writes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is done.
    pub work: Work,
    /// The folder of this run: configuration, state, outputs.
    pub dir: PathBuf,
    /// The folder of containers, or the plain file.
    pub input: PathBuf,
    /// Where it listens, for the forward works.
    pub port: u16,
    /// Where the HTTP endpoint is, for the HTTP works.
    pub http_port: u16,
    /// Number of outputs; each gets every record.
    pub sinks: usize,
    /// Threads that read for longshore, where that is a setting; its default without it.
    pub readers: Option<u8>,
}

impl Plan {
    /// The file of output `nth`: written by the shipper, or by the HTTP endpoint.
    pub fn output(&self, nth: usize) -> PathBuf {
        self.dir.join(format!("out{nth}.ndjson"))
    }
}

/// The files of a configuration, name and text each.
pub type Config = Vec<(&'static str, String)>;

/// The files of a configuration, and the arguments of the program.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Below the folder of the run.
    pub files: Config,
    /// Made there before the start, for who does not make it.
    pub folder: Option<&'static str>,
    /// Behind the program's name.
    pub args: Vec<String>,
}

/// How `kind` is told to do the work.
pub fn setup(kind: Kind, plan: &Plan) -> Setup {
    match kind {
        Kind::Longshore => longshore(plan),
        Kind::FluentBit => fluent_bit(plan),
        Kind::Vector => vector(plan),
    }
}

fn longshore(plan: &Plan) -> Setup {
    let mut text = format!("[node]\ndata_dir = {:?}\n\n[inputs.in]\n", plan.dir.join("data"));
    let input = &plan.input;
    let _ = match plan.work.from() {
        From::Docker => {
            let readers = plan.readers.map_or(String::new(), |readers| format!("readers = {readers}\n"));
            write!(text, "type = \"docker\"\npath = {input:?}\n{readers}")
        }
        From::Lines => writeln!(text, "type = \"file\"\npaths = [{input:?}]"),
        From::Packed | From::Messages => writeln!(
            text,
            "type = \"forward\"\nlisten = [\"tcp://127.0.0.1:{}\"]\nconnections_max = 16384\npeer_connections_max = 16384\nack = \"{}\"",
            plan.port,
            if plan.work == Work::Durable { "durable" } else { "delivered" }
        ),
    };
    let pattern = format!("  {{ parse = \"regex\", pattern = '{PATTERN}' }},\n");
    let steps = match (plan.work, plan.work.from()) {
        (Work::RegexFile, _) => pattern.as_str(),
        (_, From::Docker | From::Messages) => "  { join = \"docker_partial\" },\n  { parse = \"json\" },\n",
        _ => "",
    };
    let _ = writeln!(text, "\n[pipeline]\nsteps = [\n{steps}]");
    for nth in 0..plan.sinks {
        let _ = if plan.work.to_http() {
            writeln!(
                text,
                "\n[sinks.out{nth}]\ntype = \"http\"\nurl = \"http://127.0.0.1:{}/{nth}\"\nbatch = {{ size = \"1MiB\", wait = \"200ms\" }}",
                plan.http_port
            )
        } else {
            writeln!(text, "\n[sinks.out{nth}]\ntype = \"file\"\npath = {:?}", plan.output(nth))
        };
    }
    text.push_str("\n[telemetry]\nlisten = \"off\"\nlog = { level = \"warn\" }\n");
    let args = ["run", "--config", "longshore.toml"].map(str::to_owned).to_vec();
    Setup { files: vec![("longshore.toml", text)], folder: None, args }
}

fn fluent_bit(plan: &Plan) -> Setup {
    let durable = plan.work == Work::Durable;
    let mut text = String::from(
        "[SERVICE]\n    Flush 0.2\n    Grace 5\n    Daemon off\n    Log_Level error\n    Parsers_File parsers.conf\n",
    );
    let state = plan.dir.display();
    if durable {
        let _ = writeln!(text, "    storage.path {state}/storage\n    storage.sync full");
    }
    text.push_str("\n[INPUT]\n");
    let tail = |path: &str, more: &str| {
        format!(
            "    Name tail\n    Path {path}\n    Tag bench\n    Read_from_Head true\n    DB {state}/tail.db\n    Buffer_Chunk_Size 1M\n    Buffer_Max_Size 8M\n    Mem_Buf_Limit 256M\n    Refresh_Interval 1\n{more}"
        )
    };
    text.push_str(&match plan.work.from() {
        From::Docker => {
            // Its default is 5 s: what is rotated away is read on for as long as a setting can help.
            let wait = if plan.work == Work::Rotate { "    Rotate_Wait 30\n" } else { "" };
            tail(&format!("{}/*/*-json.log", plan.input.display()), &format!("    Parser docker\n{wait}"))
        }
        From::Lines => tail(&plan.input.display().to_string(), ""),
        From::Packed | From::Messages => format!(
            "    Name forward\n    Listen 127.0.0.1\n    Port {}\n    Buffer_Chunk_Size 1M\n    Buffer_Max_Size 64M\n",
            plan.port
        ),
    });
    if durable {
        text.push_str("    storage.type filesystem\n");
    }
    let parser = if plan.work == Work::RegexFile { "access" } else { "inner" };
    if plan.work.parses_json() || plan.work == Work::RegexFile {
        let _ = write!(
            text,
            "\n[FILTER]\n    Name parser\n    Match *\n    Key_Name log\n    Parser {parser}\n    Reserve_Data On\n"
        );
    }
    for nth in 0..plan.sinks {
        text.push_str("\n[OUTPUT]\n    Match *\n");
        let _ = if plan.work.to_http() {
            writeln!(
                text,
                "    Name http\n    Host 127.0.0.1\n    Port {}\n    URI /{nth}\n    Format json_lines\n    Workers 2\n    Retry_Limit no_limits",
                plan.http_port
            )
        } else {
            writeln!(text, "    Name file\n    Path {state}\n    File out{nth}.ndjson\n    Format plain")
        };
    }
    let parsers = format!(
        "[PARSER]\n    Name docker\n    Format json\n    Time_Key time\n    Time_Format %Y-%m-%dT%H:%M:%S.%L\n    Time_Keep On\n\n[PARSER]\n    Name inner\n    Format json\n\n[PARSER]\n    Name access\n    Format regex\n    Regex {PATTERN}\n"
    );
    let args = ["-c", "fluent-bit.conf"].map(str::to_owned).to_vec();
    Setup { files: vec![("fluent-bit.conf", text), ("parsers.conf", parsers)], folder: None, args }
}

fn vector(plan: &Plan) -> Setup {
    let mut text = format!("data_dir = {:?}\n\n[sources.in]\n", plan.dir.join("data"));
    let include = match plan.work.from() {
        From::Docker => plan.input.join("*/*-json.log"),
        _ => plan.input.clone(),
    };
    let _ = match plan.work.from() {
        From::Docker | From::Lines => writeln!(
            text,
            "type = \"file\"\ninclude = [{include:?}]\nread_from = \"beginning\"\nmax_line_bytes = 8388608\nglob_minimum_cooldown_ms = 1000\n\n[sources.in.fingerprint]\nstrategy = \"device_and_inode\""
        ),
        From::Packed | From::Messages => {
            writeln!(text, "type = \"fluent\"\nmode = \"tcp\"\naddress = \"127.0.0.1:{}\"", plan.port)
        }
    };
    let source = match plan.work.from() {
        From::Docker => {
            "outer = object!(parse_json!(string!(.message)))\n.stream = outer.stream\n.time = outer.time\ninner, err = parse_json(string!(outer.log))\nif err == null && is_object(inner) { . = merge(., object!(inner)) } else { .log = outer.log }\ndel(.message)\n".to_owned()
        }
        From::Messages => {
            "inner, err = parse_json(string!(.log))\nif err == null && is_object(inner) { . = merge(., object!(inner))\n  del(.log) }\n".to_owned()
        }
        From::Lines if plan.work == Work::RegexFile => {
            format!(". = merge(., parse_regex!(string!(.message), r'{PATTERN}'))\ndel(.message)\n")
        }
        From::Lines => ".log = del(.message)\n".to_owned(),
        From::Packed => String::new(),
    };
    let last = if source.is_empty() {
        "in"
    } else {
        let _ = writeln!(text, "\n[transforms.parse]\ntype = \"remap\"\ninputs = [\"in\"]\nsource = '''\n{source}'''");
        "parse"
    };
    for nth in 0..plan.sinks {
        let _ = if plan.work.to_http() {
            writeln!(
                text,
                "\n[sinks.out{nth}]\ntype = \"http\"\ninputs = [\"{last}\"]\nuri = \"http://127.0.0.1:{}/{nth}\"\nframing.method = \"newline_delimited\"\nencoding.codec = \"json\"\nbatch.max_bytes = 1048576\nbatch.timeout_secs = 0.2\nacknowledgements.enabled = true",
                plan.http_port
            )
        } else {
            writeln!(
                text,
                "\n[sinks.out{nth}]\ntype = \"file\"\ninputs = [\"{last}\"]\npath = {:?}\nencoding.codec = \"json\"\nacknowledgements.enabled = true",
                plan.output(nth)
            )
        };
        if plan.work == Work::Durable {
            text.push_str("buffer.type = \"disk\"\nbuffer.max_size = 1073741824\n");
        }
    }
    let args = ["--quiet", "--config", "vector.toml"].map(str::to_owned).to_vec();
    // It ends at a data folder that is not there.
    Setup { files: vec![("vector.toml", text)], folder: Some("data"), args }
}

/// Writes a configuration into the folder of its run.
pub fn write(setup: &Setup, dir: &Path) -> Result<(), String> {
    for (name, text) in &setup.files {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(folder) = setup.folder {
        let path = dir.join(folder);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::config::{self, Overrides};

    #[test]
    fn everybody_is_told_to_write_to_every_output_in_the_same_way() {
        for (work, kind) in [Work::DockerFile, Work::DockerHttp, Work::Durable]
            .into_iter()
            .flat_map(|work| [Kind::Longshore, Kind::FluentBit, Kind::Vector].map(|kind| (work, kind)))
        {
            let plan = Plan {
                work,
                dir: "/run".into(),
                input: "/in".into(),
                port: 24224,
                http_port: 9000,
                sinks: 3,
                readers: None,
            };
            let (_, text) = setup(kind, &plan).files.swap_remove(0);
            let section = if kind == Kind::FluentBit { "\n[OUTPUT]" } else { "\n[sinks." };
            let outputs: Vec<&str> = text.split(section).skip(1).collect();
            assert_eq!(outputs.len(), 3, "{kind:?}:\n{text}");
            // All but the line that says where to, which is one.
            let rest = |nth: usize| -> Vec<&str> {
                let end = if work.to_http() { format!("/{nth}") } else { format!("out{nth}.ndjson") };
                let lines: Vec<&str> = outputs[nth].lines().skip(1).take_while(|line| !line.is_empty()).collect();
                let (to, rest): (Vec<&str>, _) =
                    lines.into_iter().partition(|line| line.trim_end_matches('"').ends_with(&end));
                assert_eq!(to.len(), 1, "{kind:?}, {nth}:\n{text}");
                rest
            };
            assert!(!rest(0).is_empty() && rest(1) == rest(0) && rest(2) == rest(0), "{kind:?}:\n{text}");
        }
    }

    #[test]
    fn settings_stand_where_they_have_a_meaning() {
        let text = |kind, work, readers| {
            let plan =
                Plan { work, dir: "/run".into(), input: "/in".into(), port: 24224, http_port: 9000, sinks: 1, readers };
            setup(kind, &plan).files.swap_remove(0).1
        };
        let readers = |work, readers| text(Kind::Longshore, work, readers).matches("\nreaders = 4\n").count();
        assert_eq!([Work::DockerHttp, Work::Rotate, Work::LineFile].map(|work| readers(work, Some(4))), [1, 1, 0]);
        assert!(!text(Kind::Longshore, Work::DockerFile, None).contains("readers"));
        let waits = |work| text(Kind::FluentBit, work, None).matches("    Rotate_Wait 30\n").count();
        assert_eq!([Work::Rotate, Work::DockerFile, Work::LineFile].map(waits), [1, 0, 0]);
    }

    #[test]
    fn our_own_configuration_of_every_work_is_valid() {
        for work in Work::value_variants() {
            let dir = tempfile::tempdir().expect("a folder");
            let input = dir.path().join("in");
            let plan = Plan {
                work: *work,
                dir: dir.path().into(),
                input,
                port: 24224,
                http_port: 9000,
                sinks: 2,
                readers: Some(2),
            };
            let setup = setup(Kind::Longshore, &plan);
            let (name, text) = &setup.files[0];
            let read = config::load_text(name, text, &Overrides::default());
            assert!(
                read.is_ok(),
                "{}:\n{text}\n{}",
                work.name(),
                read.err().map_or(String::new(), |r| r.render(false))
            );
        }
    }

    #[test]
    fn a_peer_is_a_known_kind_and_a_program_that_is_there() {
        assert!(Shipper::peer("fluent-bit").is_err());
        assert!(Shipper::peer("logstash=/bin/true").is_err());
        assert!(Shipper::peer("vector=/nowhere/vector").is_err());
        let program = std::env::current_exe().expect("known");
        let peer = Shipper::peer(&format!("fluent-bit={}", program.display())).expect("a peer");
        assert_eq!((peer.name.as_str(), peer.kind), ("fluent-bit", Kind::FluentBit));
        let beside = Shipper::peer("longshore=Cargo.toml").expect("a file beside the tests");
        assert!(beside.program.is_absolute(), "it is started in another folder: {:?}", beside.program);
    }
}
