//! Whole documents: what is wrong with them, in their words and places.

use super::*;
use crate::inputs::Outlet;
use crate::settings::Section;
use crate::workers::Workers;
use std::sync::Arc;

/// An input that says which tags it makes.
struct Tagged(Vec<String>);

impl Input for Tagged {
    fn tags(&self) -> Vec<String> {
        self.0.clone()
    }

    fn start(self: Box<Self>, _: Outlet, _: &Arc<Workers>) -> std::io::Result<()> {
        Ok(())
    }
}

fn tagged(section: &Section<'_, '_>, name: &str) -> Box<dyn Input> {
    section.text("path");
    section.texts("exclude");
    Box::new(Tagged(vec![section.text("tag").unwrap_or_else(|| name.to_owned())]))
}

const INPUTS: &[InputKind] = &[InputKind { name: "docker", read: tagged }, InputKind { name: "file", read: tagged }];

fn source<'a>(text: &'a str, env: &'a dyn Fn(&str) -> Option<String>, root: &'a Path) -> Source<'a> {
    Source { name: "c.toml", text, env, root, kinds: Kinds { inputs: INPUTS, sinks: SINKS } }
}

fn read_text(text: &str) -> Result<Config, Report> {
    read(&source(text, &|_| None, Path::new("/nonexistent")), &Overrides::default())
}

fn refused(text: &str) -> String {
    read_text(text).expect_err("mistakes").to_string()
}

const GOOD: &str = "[inputs.a]\ntype = \"docker\"\n[sinks.out]\ntype = \"stdout\"\n";

#[test]
fn every_mistake_of_a_file_comes_out_in_one_run_in_its_order() {
    let text = r#"[nod]
data_dir = "x"

[node]
memory = 64
shutdown_timeout = "25"
workers = 0

[inputs.Apps]
type = "doker"

[inputs.b]
type = "docker"
exlude = ["x"]

[inputs.c]

[pipeline]
stepz = []

[buffer]
size = 1
full = "blok"

[sinks.out]
type = "console"

[telemetry]
listen = "localhost:9600"
log = { format = "txt", level = "loud" }
"#;
    let expected = r#"c.toml:1:2: error: unknown section [nod]; did you mean [node]? The sections are [node], [inputs], [pipeline], [buffer], [dead_letters], [sinks], [telemetry]
  1 | [nod]
    |  ^^^
c.toml:5:10: error: node.memory: 64 has no unit; write "64MiB" or "70%"
  5 | memory = 64
    |          ^^
c.toml:6:20: error: node.shutdown_timeout: "25" has no unit; write "25s"
  6 | shutdown_timeout = "25"
    |                    ^^^^
c.toml:7:11: error: node.workers: 0 is not within 1 to 256
  7 | workers = 0
    |           ^
c.toml:9:9: error: inputs: "Apps" is not a name; use a-z, 0-9, `_` and `-`, 64 at most
  9 | [inputs.Apps]
    |         ^^^^
c.toml:10:8: error: inputs.Apps.type: "doker" is not one of "docker", "file"; did you mean "docker"?
  10 | type = "doker"
     |        ^^^^^^^
c.toml:14:1: error: unknown key `exlude` in [inputs.b]; did you mean `exclude`?
  14 | exlude = ["x"]
     | ^^^^^^
c.toml:16:9: error: inputs.c: `type` is missing; write for example type = "docker" (one of "docker", "file")
  16 | [inputs.c]
     |         ^
c.toml:19:1: error: unknown key `stepz` in [pipeline]; did you mean `steps`?
  19 | stepz = []
     | ^^^^^
c.toml:22:8: error: buffer.size: 1 has no unit; write "1MiB"
  22 | size = 1
     |        ^
c.toml:23:8: error: buffer.full: "blok" is not one of "block", "drop_oldest", "drop_newest"; did you mean "block"?
  23 | full = "blok"
     |        ^^^^^^
c.toml:26:8: error: sinks.out.type: "console" is not one of "stdout", "file", "http", "forward"; did you mean "stdout"?
  26 | type = "console"
     |        ^^^^^^^^^
c.toml:29:10: error: telemetry.listen: "localhost:9600" is not an address and port; write "127.0.0.1:9600", or "off"
  29 | listen = "localhost:9600"
     |          ^^^^^^^^^^^^^^^^
c.toml:30:18: error: telemetry.log.format: "txt" is not one of "text", "json"; did you mean "text"?
  30 | log = { format = "txt", level = "loud" }
     |                  ^^^^^
c.toml:30:33: error: telemetry.log.level: "loud" is not one of "error", "warn", "info", "debug", "trace", "warning"
  30 | log = { format = "txt", level = "loud" }
     |                                 ^^^^^^
15 errors
"#;
    assert_eq!(refused(text), expected);
}

#[test]
fn syntax_errors_are_all_listed_and_others_on_whole_lines_too() {
    let text =
        "[node]\nmemory = 64\ndata_dir = \"x\n[inputs.a\n[inputs.b]\ntype = docker\n[sinks.out]\ntype = \"stdot\"\n";
    let said = refused(text);
    for place in
        ["c.toml:2:10: error: node.memory", "c.toml:3:", "c.toml:4:", "c.toml:6:", "c.toml:8:8: error: sinks.out.type"]
    {
        assert!(said.contains(place), "{place} in\n{said}");
    }
    assert!(!said.contains("missing") && !said.contains("no input"), "{said}");
}

#[test]
fn duplicate_keys_and_sections_are_errors() {
    let said = refused(&format!("{GOOD}[node]\nworkers = 1\nworkers = 2\n[sinks.out]\ntype = \"stdout\"\n"));
    assert!(said.contains("c.toml:7:1: error: duplicate key"), "{said}");
    assert!(said.contains("c.toml:8:8: error: duplicate key"), "{said}");
}

#[test]
fn nothing_to_read_or_nowhere_to_write_is_an_error() {
    let said = refused("");
    assert!(
        said.contains("c.toml:1:1: error: no input is configured; add a section such as [inputs.containers]"),
        "{said}"
    );
    assert!(said.contains("no sink is configured; add a section such as [sinks.out] with type = \"stdout\""), "{said}");
    let said = refused("inputs = 3\n[[sinks.x]]\ntype = \"stdout\"\n");
    assert!(said.contains("`inputs` is a section: expected [inputs], got the number 3"), "{said}");
    assert!(said.contains("write [sinks.x] with single brackets"), "{said}");
}

#[test]
fn words_of_other_programs_get_ours_as_a_suggestion() {
    let said = refused(&format!("{GOOD}[sources.x]\ntype = \"tail\"\n[transforms.y]\n[inputs.t]\ntype = \"tail\"\n"));
    assert!(said.contains("unknown section [sources]; did you mean [inputs]?"), "{said}");
    assert!(said.contains("unknown section [transforms]; did you mean [pipeline]?"), "{said}");
    assert!(said.contains("\"tail\" is not one of \"docker\", \"file\"; did you mean \"file\"?"), "{said}");
}

#[test]
fn memory_is_a_size_or_a_share_of_the_limit() {
    let root = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(root.path().join("proc/self")).expect("folders");
    std::fs::create_dir_all(root.path().join("sys/fs/cgroup")).expect("folders");
    std::fs::write(root.path().join("proc/self/cgroup"), "0::/\n").expect("a file");
    std::fs::write(root.path().join("sys/fs/cgroup/memory.max"), "104857600\n").expect("a file");
    let cases: [(&str, Result<u64, &str>, &str); 11] = [
        ("", Ok((100 << 20) / 100 * 70), ""),
        ("memory = \"50%\"", Ok(50 << 20), ""),
        ("memory = \"64MiB\"", Ok(64 << 20), ""),
        ("memory = \"${M:-32MiB}\"", Ok(32 << 20), ""),
        ("memory = \"1GiB\"", Ok(1 << 30), "more than the cgroup's limit of 100MiB; write \"70%\" (70MiB)"),
        ("memory = \"1%\"", Ok(16 << 20), "1% of the cgroup's limit of 100MiB is below 16MiB"),
        ("memory = \"8MiB\"", Err("below 16MiB"), ""),
        ("memory = \"100%\"", Err("not a whole percentage from 1% to 90%"), ""),
        ("memory = \"70\"", Err("\"70\" has no unit; write \"70MiB\", or a percentage: \"70%\""), ""),
        ("memory = 1.5", Err("expected a size or a percentage"), ""),
        ("memory = \"much\"", Err("not a size"), ""),
    ];
    for (line, expected, warning) in cases {
        let text = format!("{GOOD}[node]\n{line}\n");
        match (read(&source(&text, &|_| None, root.path()), &Overrides::default()), expected) {
            (Ok(config), Ok(bytes)) => {
                assert_eq!(config.node.memory as u64, bytes, "{line}");
                let said = config.warnings.to_string();
                assert!(said.contains(warning) && said.is_empty() == warning.is_empty(), "{line}: {said}");
            }
            (Err(report), Err(part)) => assert!(report.to_string().contains(part), "{line}: {report}"),
            (other, _) => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn a_sink_that_nothing_reaches_and_an_input_without_sink_are_warned_of() {
    let text = "[inputs.a]\ntype = \"docker\"\ntag = \"docker.*\"\n[inputs.b]\ntype = \"file\"\ntag = \"b\"\n\
                [sinks.out]\ntype = \"stdout\"\nmatch = [\"docker.web\", \"x.**\"]\n[sinks.lost]\ntype = \"stdout\"\nmatch = \"apii.**\"\n";
    let warnings = read_text(text).expect("warnings only").warnings.to_string();
    let expected = r#"c.toml:4:9: warning: inputs.b: no sink matches its tags ("b"); its records would be counted as unrouted and dropped
  4 | [inputs.b]
    |         ^
c.toml:12:9: warning: sinks.lost: no tag reaches it: it matches "apii.**"; a makes "docker.*"; b makes "b"
  12 | match = "apii.**"
     |         ^^^^^^^^^
"#;
    assert_eq!(warnings, expected);
    let retagged = format!("{text}[pipeline]\nsteps = [{{ tag = \"{{x}}\" }}]\n");
    if let Ok(config) = read_text(&retagged) {
        assert_eq!(config.warnings.to_string(), "", "a step that tags makes any tag possible");
    }
}

#[test]
fn records_that_no_frame_of_the_disk_log_can_hold_are_warned_of() {
    let text = |more: &str, size: &str| {
        format!(
            "[inputs.apps]\ntype = \"forward\"\n{more}[buffer]\nsize = \"{size}\"\n[sinks.out]\ntype = \"stdout\"\n"
        )
    };
    let said = |more: &str, size: &str| {
        let text = text(more, size);
        let source = Source { kinds: KINDS, ..source(&text, &|_| None, Path::new("/")) };
        read(&source, &Overrides::default()).expect("warnings only").warnings.to_string()
    };
    let warning = said("", "8MiB");
    assert!(
        warning.contains("`record_max` is 4194304 bytes") && warning.contains("has about 2621440 at most"),
        "{warning}"
    );
    assert!(said("record_max = \"3MiB\"\n", "8MiB").contains("3145728"), "what is stored around it counts too");
    assert_eq!(said("record_max = \"2560KiB\"\n", "8MiB"), "");
    assert_eq!(said("ack = \"delivered\"\n", "8MiB"), "");
    assert_eq!(said("", "1GiB"), "");
}

#[test]
fn records_are_only_for_json_where_no_step_and_no_sink_wants_them_as_they_came() {
    let forward = "[sinks.up]\ntype = \"forward\"\nservers = \"127.0.0.1:24224\"\nmatch = \"x.**\"\n";
    for (more, expected) in [
        (String::new(), true),
        ("[sinks.disk]\ntype = \"file\"\npath = \"/tmp/out.ndjson\"\n".to_owned(), true),
        (forward.to_owned(), false),
        ("[pipeline]\nsteps = [{ parse = \"json\" }]\n".to_owned(), false),
        ("[pipeline]\nsteps = [{ join = \"docker_partial\" }]\n".to_owned(), false),
    ] {
        let config = read_text(&format!("{GOOD}{more}")).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(config.pipeline.is_only_for_json(), expected, "{more}");
    }
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let text = format!(
        "{GOOD}[node]\ndata_dir = \"/a\"\n[telemetry]\nlisten = \"off\"\nlog = {{ format = \"json\", level = \"debug\" }}\n"
    );
    let level = |env: &[(&str, &str)], overrides: &Overrides| {
        let env: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let look = move |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let config = read(&source(&text, &look, Path::new("/nonexistent")), overrides);
        config.map(|config| (config.telemetry.log.level.name(), config.telemetry.log.format.name(), config.explain()))
    };
    let none = Overrides::default();
    assert!(matches!(level(&[], &none), Ok(("debug", "json", _))));
    assert!(matches!(level(&[("LOG_LEVEL", "WARN"), ("LOG_FORMAT", "")], &none), Ok(("warn", "json", _))));
    let flags = Overrides { log_level: Some("trace".into()), data_dir: Some("/b".into()), ..none.clone() };
    let (level_name, _, explained) = level(&[("LOG_LEVEL", "warn")], &flags).expect("good");
    assert_eq!(level_name, "trace");
    assert!(explained.contains("data_dir = \"/b\"") && explained.contains("# flag --data-dir\n"), "{explained}");
    assert!(explained.contains("log.level = \"trace\"") && explained.contains("# flag --log-level\n"), "{explained}");
    assert!(explained.contains("log.format = \"json\"") && explained.contains("# c.toml:9\n"), "{explained}");
    assert!(explained.contains("listen = \"off\"") && explained.contains("# c.toml:8\n"), "{explained}");
    let refused = level(&[("LOG_LEVEL", "loud")], &none).expect_err("no such level").to_string();
    assert!(
        refused.starts_with("environment: error: LOG_LEVEL: \"loud\" is not one of \"error\", \"warn\""),
        "{refused}"
    );
}

#[test]
fn the_summary_is_one_line() {
    let config = read_text(&format!("{GOOD}[node]\nmemory = \"64MiB\"\n")).expect("good");
    assert_eq!(config.summary(), "1 input (a), 0 steps, 1 sink (out), memory 64MiB");
    assert_eq!(config.telemetry.listen, LISTEN_DEFAULT.parse().ok());
    assert_eq!(config.inputs[0].about, ["/var/lib/docker/containers"]);
}

#[test]
fn a_file_that_is_no_text_or_not_there_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.toml");
    let said = |path: &Path| load(path, &Overrides::default()).expect_err("no configuration").to_string();
    assert!(said(&path).contains("c.toml: error: the configuration can not be read: No such file"));
    std::fs::write(&path, b"[node]\nx = \"\xff\"\n").expect("a file");
    assert!(said(&path).contains("c.toml:2: error: byte 12 is not UTF-8"), "{}", said(&path));
    std::fs::write(&path, vec![b'#'; 2 << 20]).expect("a file");
    assert!(said(&path).contains("larger than 1 MiB"));
    assert!(said(folder.path()).contains("can not be read"));
}

#[test]
fn only_the_address_is_read_for_a_health_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.toml");
    std::fs::write(&path, "[sinks.x]\ntoken = \"secret:none\"\n[telemetry]\nlisten = \"0.0.0.0:1\"\n").expect("a file");
    assert_eq!(listen_of(&path).expect("an address"), "0.0.0.0:1".parse().ok());
    std::fs::write(&path, "[telemetry]\nlisten = \"off\"\n").expect("a file");
    assert_eq!(listen_of(&path).expect("off"), None);
    std::fs::write(&path, "[telemetry]\nlisten = \"x\"\n").expect("a file");
    assert!(listen_of(&path).is_err());
}

#[test]
fn no_document_makes_it_panic() {
    let seeds =
        [GOOD, "[inputs]\na = {}\n[sinks]\nb = { type = 1 }\n", "[node]\nmemory = \"${\"\n", "a.b.c = [{}, [[]]]\n"];
    for seed in seeds {
        for cut in 0..=seed.len() {
            for insert in ["", "\"", "[", "{", "=", "\n", "\u{feff}", "é", "\0"] {
                let text = format!("{}{insert}{}", &seed[..cut], &seed[cut..]);
                let _ = read_text(&text).map_err(|report| report.to_string());
            }
        }
    }
}

/// The example with every commented key in effect.
fn example_with_every_key() -> String {
    let key = |line: &str| {
        let name = line.split(" = ").next().unwrap_or("");
        let is_key =
            line.contains(" = ") && !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        is_key || line.starts_with('[') && line.split(']').next().is_some_and(|head| !head.contains(' '))
    };
    let text = include_str!("../../config.example.toml");
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if key(rest) => rest,
        _ => line,
    });
    // A heading such as `[inputs.NAME]: a name is ...` explains; it is no section.
    lines.map(|line| if line.contains("NAME]:") { "" } else { line }).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_names_only_keys_that_exist_also_in_its_comments() {
    let text = example_with_every_key();
    assert!(
        text.contains("\n[buffer]") && text.contains("\nworkers = 2") && text.contains("\n[sinks.central]"),
        "{text}"
    );
    let report = match read(&Source { kinds: KINDS, ..source(&text, &|_| None, Path::new("/")) }, &Overrides::default())
    {
        Ok(config) => config.warnings,
        Err(report) => report,
    };
    // Comments show alternatives (a token and a password) and secrets that are not there; what must not be is a key,
    // section or word that does not exist.
    let wrong = |finding: &&Shown| {
        let known = ["no secret `", "neither", "more than the", "listen", "token", "user", "no compression", "type:"];
        finding.severity == Severity::Error && !known.iter().any(|part| finding.message.contains(part))
    };
    let found: Vec<&Shown> = report.findings.iter().filter(wrong).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_example_names_every_key_that_exists() {
    let example = include_str!("../../config.example.toml");
    let kinds = KINDS.inputs.iter().map(|kind| ("inputs", kind.name));
    for (group, kind) in kinds.chain(KINDS.sinks.iter().map(|kind| ("sinks", kind.name))) {
        let text = format!("[{group}.x]\ntype = \"{kind}\"\n");
        let env = |_: &str| None;
        let doc = Doc::new("c.toml", &text, env);
        let table = DeTable::parse(&text).expect("valid TOML");
        let source = Source { kinds: KINDS, ..source(&text, &env, Path::new("/")) };
        let (config, _) = sections::read(&doc, table.get_ref(), &source, &Overrides::default());
        for Setting { section, key, .. } in &config.settings {
            assert!(example.contains(&format!("{key} = ")) || key.contains('.'), "[{section}] {key} ({kind})");
        }
    }
}
