//! `longshore tail`: makes the configuration that its paths ask for, as the TOML that a person would write, so that it
//! is read by the same code. Docker's folder and the format of files are recognised by looking at them.
//!
//! Limits: the first 4 KiB of each file are looked at; [`PATHS_MAX`] paths.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use crate::cli::{LineFormat, Start, Tail, TailFormat};

/// Paths, at most.
pub const PATHS_MAX: usize = 1024;
const LOOK: u64 = 4 << 10;

/// The configuration for these paths.
///
/// # Errors
/// A path that can not be followed, with the way out.
pub fn document(tail: &Tail) -> Result<String, String> {
    if tail.paths.len() > PATHS_MAX {
        return Err(format!("more than {PATHS_MAX} paths; quote the pattern, so that longshore expands it"));
    }
    let mut folders: Vec<&str> = Vec::new();
    let mut files: Vec<(&'static str, String)> = Vec::new();
    let mut stdin = false;
    for path in &tail.paths {
        match look(path, tail.lines)? {
            Seen::Stdin => stdin = true,
            Seen::Containers => folders.push(path),
            Seen::File(format) => files.push((format, escape_glob(path))),
            Seen::Glob(format) => files.push((format, path.clone())),
        }
    }
    if stdin && (!folders.is_empty() || !files.is_empty()) {
        return Err("`-` stands alone: standard input has an end, followed files have none".to_owned());
    }
    let start = match tail.start {
        Start::Head => "head",
        Start::Tail => "tail",
    };
    let mut out = String::new();
    // Writing to a String can not fail.
    for (at, folder) in folders.iter().enumerate() {
        let _ =
            writeln!(out, "[inputs.containers{at}]\ntype = \"docker\"\npath = {}\nstart = \"{start}\"", quote(folder));
    }
    for format in ["text", "json", "cri", "docker"] {
        let of_format = files.iter().filter(|(of, _)| *of == format);
        let paths: Vec<String> = of_format.map(|(_, path)| quote(path)).collect();
        if !paths.is_empty() {
            let paths = paths.join(", ");
            let _ = writeln!(out, "[inputs.{format}]\ntype = \"file\"\ntag = \"file\"\npaths = [{paths}]");
            let _ = writeln!(out, "format = \"{format}\"\nstart = \"{start}\"");
        }
    }
    if stdin {
        let format = if tail.lines == LineFormat::Json { "json" } else { "text" };
        let _ = writeln!(out, "[inputs.stdin]\ntype = \"stdin\"\nformat = \"{format}\"");
    }
    let _ = writeln!(out, "[pipeline]\nsteps = [{{ join = \"docker_partial\" }}, {{ parse = \"json\" }}]");
    let format = match tail.format {
        TailFormat::Json => "ndjson",
        TailFormat::Pretty => "pretty",
    };
    let _ = writeln!(out, "[sinks.stdout]\ntype = \"stdout\"\nformat = \"{format}\"");
    let _ = writeln!(out, "[telemetry]\nlisten = \"off\"\nlog = {{ level = \"warn\" }}");
    Ok(out)
}

/// What a path is.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Stdin,
    Containers,
    File(&'static str),
    Glob(&'static str),
}

fn look(path: &str, lines: LineFormat) -> Result<Seen, String> {
    if path == "-" {
        return Ok(Seen::Stdin);
    }
    let given = match lines {
        LineFormat::Auto => None,
        LineFormat::Text => Some("text"),
        LineFormat::Json => Some("json"),
        LineFormat::Cri => Some("cri"),
        LineFormat::Docker => Some("docker"),
    };
    let shown = path.escape_debug();
    let kind = match std::fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.contains(['*', '?', '[']) => {
            return Ok(Seen::Glob(given.unwrap_or("text")));
        }
        Err(error) => return Err(format!("{shown}: {error}{}", permission_hint(&error))),
    };
    if kind.is_dir() {
        return match has_containers(Path::new(path)) {
            Ok(true) => Ok(Seen::Containers),
            Ok(false) => Err(format!(
                "{shown}: a folder without Docker containers (<64 hex digits>/<the same>-json.log); for its files write '{}/*.log'",
                path.trim_end_matches('/').escape_debug()
            )),
            Err(error) => Err(format!("{shown}: {error}{}", permission_hint(&error))),
        };
    }
    if !kind.is_file() {
        return Err(format!("{shown}: not a regular file; for a pipe write `longshore tail - < {shown}`"));
    }
    let mut head = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LOOK).read_to_end(&mut head))
        .map_err(|error| format!("{shown}: {error}{}", permission_hint(&error)))?;
    Ok(Seen::File(given.unwrap_or_else(|| format_of(&head))))
}

fn permission_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "; Docker's files belong to root: run as root, or give the program CAP_DAC_READ_SEARCH"
        }
        _ => "",
    }
}

/// Whether it is Docker's folder of containers. An empty folder of that name counts.
fn has_containers(folder: &Path) -> std::io::Result<bool> {
    let is_id = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let mut any = false;
    for entry in std::fs::read_dir(folder)? {
        any = true;
        if is_id(&entry?.file_name().to_string_lossy()) {
            return Ok(true);
        }
    }
    Ok(!any && folder.ends_with("containers"))
}

/// The format of a file by its first line.
fn format_of(head: &[u8]) -> &'static str {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or(head);
    if line.starts_with(b"{\"log\":\"") || (line.starts_with(b"{\"stream\":\"") && contains(line, b"\"time\":\"")) {
        return "docker";
    }
    if line.starts_with(b"{") {
        return "json";
    }
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, flag) = (words.next().unwrap_or(b""), words.next(), words.next());
    let is_time = time.len() >= 20 && time[4] == b'-' && time[10] == b'T' && time[..4].iter().all(u8::is_ascii_digit);
    let is_stream = matches!(stream, Some(b"stdout" | b"stderr"));
    let is_flag = flag.is_some_and(|flag| matches!(flag.first(), Some(b'P' | b'F')));
    if is_time && is_stream && is_flag { "cri" } else { "text" }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// A path as a glob that matches only it.
fn escape_glob(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '*' | '?' | '[' | ']' | '{' | '}' => {
                out.push('[');
                out.push(c);
                out.push(']');
            }
            c => out.push(c),
        }
    }
    out
}

/// A text as a TOML string that means exactly it, variables included.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\U{:08X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn tail(words: &[&str]) -> Tail {
        let words = ["longshore", "tail"].iter().chain(words);
        match crate::cli::Cli::try_parse_from(words).expect("good usage").command {
            crate::cli::Command::Tail(tail) => tail,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_line_tells_the_format() {
        let cases: [(&[u8], &str); 7] = [
            (b"{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-24T10:00:00Z\"}\n", "docker"),
            (b"{\"stream\":\"stdout\",\"time\":\"2026-11-24T10:00:00Z\"}\n", "docker"),
            (b"{\"level\":\"info\"}\n", "json"),
            (b"2026-11-24T10:00:00.123456789+01:00 stderr F hello\n", "cri"),
            (b"2026-11-24T10:00:00.123456789Z stdout P\n", "cri"),
            (b"2026-11-24T10:00:00Z something else\n", "text"),
            (b"", "text"),
        ];
        for (head, expected) in cases {
            assert_eq!(format_of(head), expected, "{}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn a_folder_of_containers_is_recognised_and_another_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("UTF-8");
        let refused = document(&tail(&[path])).expect_err("no containers");
        assert!(refused.contains("without Docker containers") && refused.contains("/*.log"), "{refused}");
        std::fs::create_dir(folder.path().join("a1".repeat(32))).expect("a container");
        let made = document(&tail(&["--start", "tail", path])).expect("a configuration");
        assert!(made.contains("type = \"docker\"\n") && made.contains("start = \"tail\"\n"), "{made}");
    }

    #[test]
    fn odd_names_of_files_stay_what_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = "a*b[1]\"${HOME}\\\n.log";
        std::fs::write(folder.path().join(name), "{\"a\":1}\n").expect("a file");
        let path = folder.path().join(name);
        let made = document(&tail(&[path.to_str().expect("UTF-8")])).expect("a configuration");
        let table: toml::Table = toml::from_str(&made).expect("valid TOML");
        let paths = table["inputs"]["json"]["paths"][0].as_str().expect("text").replace("$${", "${");
        assert_eq!(paths, format!("{}/a[*]b[[]1[]]\"$[{{]HOME[}}]\\\n.log", folder.path().display()));
    }

    #[test]
    fn what_is_made_has_only_keys_that_exist() {
        let folder = tempfile::tempdir().expect("a folder");
        let containers = folder.path().join("containers");
        std::fs::create_dir(&containers).expect("a folder");
        std::fs::write(folder.path().join("a.log"), "text\n").expect("a file");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        for words in [&["-"][..], &["--format", "pretty", &path("containers"), &path("a.log")]] {
            let made = document(&tail(words)).expect("a configuration");
            if let Err(report) = crate::config::load_text("tail", &made, &crate::config::Overrides::default()) {
                let wrong: Vec<_> = report.findings.iter().filter(|f| !f.message.contains(".type: ")).collect();
                assert!(wrong.is_empty(), "{report}\n{made}");
            }
        }
    }

    #[test]
    fn standard_input_stands_alone_and_missing_files_are_said() {
        assert!(document(&tail(&["-"])).expect("a configuration").contains("type = \"stdin\""));
        assert!(document(&tail(&["-", "x*"])).expect_err("two").contains("stands alone"));
        assert!(
            document(&tail(&["/nonexistent/x.log"])).expect_err("missing").starts_with("/nonexistent/x.log: No such")
        );
        assert!(document(&tail(&["/dev/null"])).expect_err("a device").contains("not a regular file"));
        assert!(document(&tail(&["/nonexistent/*.log"])).expect("a pattern").contains("\"/nonexistent/*.log\""));
    }
}
