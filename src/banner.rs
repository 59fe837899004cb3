//! What `longshore run` says on standard error once everything runs: what it follows, where it writes, what to try
//! next; and on a later run, that lines which were delivered before do not come again, and how to see them again.
//!
//! Pure: [`text`] makes it from a [`View`]. It is for people: not printed when the log is JSON.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::config::{Config, Named, plural};
use crate::log::Escaped;

/// One input or sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// Paths or addresses.
    pub about: Vec<String>,
}

/// What checkpoints say at the start: what was delivered by earlier runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Files or containers with a checkpoint.
    pub files: u64,
}

/// Everything that the text is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// How the program was called, for commands to paste.
    pub program: String,
    /// The configuration file.
    pub config: String,
    /// The inputs.
    pub inputs: Vec<Part>,
    /// The sinks.
    pub sinks: Vec<Part>,
    /// Where checkpoints are kept.
    pub data_dir: String,
    /// Where health and metrics are answered.
    pub listen: Option<SocketAddr>,
    /// What earlier runs delivered; zeros for a first run.
    pub resumed: Resumed,
}

impl View {
    /// What a configuration says. `program` is how this program was called.
    pub fn of(config: &Config, program: &str, resumed: Resumed) -> View {
        fn parts<T>(all: &[Named<T>]) -> Vec<Part> {
            let part =
                |one: &Named<T>| Part { name: one.name.clone(), kind: one.kind.to_owned(), about: one.about.clone() };
            all.iter().map(part).collect()
        }
        View {
            program: program.to_owned(),
            config: config.file.clone(),
            inputs: parts(&config.inputs),
            sinks: parts(&config.sinks),
            data_dir: config.node.data_dir.display().to_string(),
            listen: config.telemetry.listen,
            resumed,
        }
    }
}

/// The text. Ends in a line break.
pub fn text(view: &View) -> String {
    let mut out = String::new();
    // Writing to a String can not fail.
    let version = env!("LONGSHORE_VERSION");
    let _ = writeln!(out, "longshore {version} runs with {}; Ctrl-C stops it", Escaped(&view.config));
    for (at, input) in view.inputs.iter().enumerate() {
        let _ = writeln!(out, "  {:<8}{}", if at == 0 { "reads" } else { "" }, line(input, "standard input"));
    }
    for (at, sink) in view.sinks.iter().enumerate() {
        let _ = writeln!(out, "  {:<8}{}", if at == 0 { "writes" } else { "" }, line(sink, "standard output"));
    }
    let _ = writeln!(out, "  {:<8}checkpoints in {}", "keeps", Escaped(&view.data_dir));
    if let Some(listen) = view.listen {
        let _ = writeln!(out, "  {:<8}http://{listen}/health and /metrics", "answers");
    }
    if view.resumed.files > 0 {
        again(view, &mut out);
    }
    next(view, &mut out);
    out
}

fn line(part: &Part, otherwise: &str) -> String {
    let about = if part.about.is_empty() && part.kind.starts_with("std") {
        otherwise.to_owned()
    } else {
        part.about.join(", ")
    };
    format!("{} ({}): {}", part.name, part.kind, Escaped(&about))
}

/// A later run.
fn again(view: &View, out: &mut String) {
    let files = usize::try_from(view.resumed.files).unwrap_or(usize::MAX);
    let (program, config) = (word(&view.program), word(&view.config));
    let _ = writeln!(
        out,
        "\nEarlier runs followed {} and delivered their lines before; these do not come again, only new ones do.\n\
         To see them again, use another folder for checkpoints:\n  {program} run --config {config} --data-dir \"$(mktemp -d)\"",
        plural(files, "file"),
    );
}

/// What to try next, where there is something that takes it.
fn next(view: &View, out: &mut String) {
    let forward = view.inputs.iter().find(|input| input.kind == "forward");
    let addresses = || forward.iter().flat_map(|input| &input.about);
    let tcp = addresses().find_map(|listen| listen.strip_prefix("tcp://").map(|rest| (listen, rest)));
    let mut tries = Vec::new();
    if let Some(listen) = tcp.map(|(listen, _)| listen).or_else(|| addresses().find(|l| l.starts_with("unix://"))) {
        let listen = listen.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
        tries.push(format!(
            "echo '{{\"level\":\"info\",\"msg\":\"hello\"}}' | {} send --tag api.test --to {}",
            word(&view.program),
            word(&listen)
        ));
    }
    if let Some((_, address)) = tcp {
        let address = address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
        tries.push(format!(
            "docker run --rm --log-driver=fluentd --log-opt fluentd-address={} \
             --log-opt tag='api.{{{{.Name}}}}' busybox echo hello",
            word(&address)
        ));
    }
    if let Some(listen) = view.listen {
        tries.push(format!("curl http://{listen}/health"));
    }
    if !tries.is_empty() {
        let _ = writeln!(out, "\nIt waits for more. To try next, in another terminal:");
        for one in tries {
            let _ = writeln!(out, "  {one}");
        }
    }
}

/// A word as a shell reads it.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,[]".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", Escaped(text).to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, kind: &str, about: &[&str]) -> Part {
        Part { name: name.into(), kind: kind.into(), about: about.iter().map(|text| (*text).to_owned()).collect() }
    }

    fn view() -> View {
        View {
            program: "longshore".into(),
            config: "config.example.toml".into(),
            inputs: vec![
                part("containers", "docker", &["./examples/containers"]),
                part("apps", "forward", &["tcp://127.0.0.1:24224"]),
            ],
            sinks: vec![part("screen", "stdout", &[]), part("archive", "file", &["./longshore-data/out/{tag}.ndjson"])],
            data_dir: "./longshore-data".into(),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9600))),
            resumed: Resumed::default(),
        }
    }

    #[test]
    fn a_first_run_says_what_it_reads_where_it_writes_and_what_to_try() {
        let expected = format!(
            r#"longshore {} runs with config.example.toml; Ctrl-C stops it
  reads   containers (docker): ./examples/containers
          apps (forward): tcp://127.0.0.1:24224
  writes  screen (stdout): standard output
          archive (file): ./longshore-data/out/{{tag}}.ndjson
  keeps   checkpoints in ./longshore-data
  answers http://127.0.0.1:9600/health and /metrics

It waits for more. To try next, in another terminal:
  echo '{{"level":"info","msg":"hello"}}' | longshore send --tag api.test --to tcp://127.0.0.1:24224
  docker run --rm --log-driver=fluentd --log-opt fluentd-address=127.0.0.1:24224 --log-opt tag='api.{{{{.Name}}}}' busybox echo hello
  curl http://127.0.0.1:9600/health
"#,
            env!("LONGSHORE_VERSION")
        );
        assert_eq!(text(&view()), expected);
    }

    #[test]
    fn a_second_run_says_that_lines_do_not_come_again_and_how_to_see_them() {
        let resumed = Resumed { files: 3 };
        let said = text(&View { resumed, ..view() });
        let expected = "
Earlier runs followed 3 files and delivered their lines before; these do not come again, only new ones do.
To see them again, use another folder for checkpoints:
  longshore run --config config.example.toml --data-dir \"$(mktemp -d)\"
";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn nothing_is_offered_that_nothing_takes() {
        let only = View { inputs: vec![part("in", "stdin", &[])], listen: None, ..view() };
        let said = text(&only);
        assert!(said.contains("in (stdin): standard input\n") && !said.contains("To try next"), "{said}");
        let unix = View { inputs: vec![part("a", "forward", &["unix:///run/x y.sock"])], ..view() };
        let said = text(&unix);
        assert!(said.contains("--to 'unix:///run/x y.sock'") && !said.contains("docker run"), "{said}");
    }

    #[test]
    fn names_of_files_can_not_steer_the_terminal() {
        let said = text(&View { config: "a\x1b[2J'\n.toml".into(), resumed: Resumed { files: 1 }, ..view() });
        assert!(!said.contains('\x1b') && said.contains("--config 'a\\u{1b}[2J'\\''\\n.toml'"), "{said}");
    }
}
