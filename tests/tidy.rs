//! The rules of the source tree, as tests: who may import whom, what is pure, how long a file may be, that each file
//! introduces itself and is part of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::harness::records::files_under;

/// Lines of a file before its own tests, at most. A longer one is two nouns: split it.
const LINES_MAX: usize = 600;

/// Who may import whom: each module of the crate, and the modules that it may name. The order is the order of the data.
const IMPORTS: &[(&str, &[&str])] = &[
    ("record", &[]),
    ("record_id", &[]),
    ("waits", &[]),
    ("sync", &[]),
    ("budget", &["waits", "sync"]),
    ("profile", &[]),
    ("settings", &["profile"]),
    ("workers", &[]),
    ("backoff", &[]),
    ("lock", &[]),
    ("log", &[]),
    ("healthcheck", &[]),
    ("service", &[]),
    ("metrics", &["budget", "waits"]),
    ("ledger", &["buffer", "metrics"]),
    ("receipt", &[]),
    ("batch", &["record", "record_id", "receipt", "budget", "metrics"]),
    ("codec", &["record", "record_id", "batch", "budget", "metrics"]),
    ("outbox", &["record", "batch", "budget", "metrics", "codec", "buffer", "workers", "log"]),
    ("pipeline", &["record", "record_id", "batch", "budget", "metrics", "settings", "codec", "outbox", "log"]),
    (
        "inputs",
        &[
            "record",
            "record_id",
            "batch",
            "budget",
            "metrics",
            "settings",
            "codec",
            "outbox",
            "pipeline",
            "dead_letters",
            "workers",
            "backoff",
            "lock",
            "log",
        ],
    ),
    ("sinks", &["record", "record_id", "batch", "budget", "metrics", "settings", "codec", "backoff", "log"]),
    ("buffer", &["lock", "log", "workers", "sync"]),
    ("dead_letters", &["batch", "budget", "metrics", "codec", "buffer", "lock", "log"]),
    (
        "delivery",
        &[
            "record",
            "batch",
            "budget",
            "metrics",
            "settings",
            "codec",
            "outbox",
            "dead_letters",
            "workers",
            "backoff",
            "sinks",
            "log",
        ],
    ),
    ("admin", &["record", "budget", "ledger", "metrics", "outbox", "log"]),
    (
        "config",
        &[
            "record", "budget", "metrics", "settings", "codec", "pipeline", "inputs", "sinks", "buffer", "delivery",
            "log", "profile",
        ],
    ),
];

/// Exceptions, each with its reason. One that is no longer needed has to go.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("budget", "batch", "the budget keeps the tables of ended batches, so that the next batch need not allocate")];

/// The top: these may name everything.
const TOP: &[&str] = &[
    "lib",
    "main",
    "run",
    "audit",
    "disk_log",
    "cli",
    "tail",
    "send",
    "banner",
    "bench",
    "checkpoints",
    "handover",
    "letters",
    "replay",
    "again",
];

/// What pure code does not use: files, sockets, threads, a runtime, a clock.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "tokio::",
    "rustix::",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    files_under(&root().join(folder))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The first part of the path below `src`: `codec` for `src/codec/json.rs`, `batch` for `src/batch.rs`.
fn module_of(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).expect("it is below src");
    let first = below.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Whether a file holds nothing but tests: `tests.rs`, `file_tests.rs`, or one that is declared under `#[cfg(test)]`.
fn is_tests(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let folder = path.parent().expect("it has one");
    let only_in_tests =
        Regex::new(&format!(r"#\[cfg\(test\)\]\s*(pub(\([^)]*\))? )?mod {stem};")).expect("a valid pattern");
    let declared = ["mod.rs", "lib.rs"]
        .iter()
        .any(|parent| fs::read_to_string(folder.join(parent)).is_ok_and(|text| only_in_tests.is_match(&text)));
    stem == "tests" || stem.ends_with("_tests") || declared
}

/// A file's text up to its own tests: the first item under `#[cfg(test)]` that is not the declaration of a file.
fn before_tests(text: &str) -> &str {
    let mark = "\n#[cfg(test)]\n";
    let is_declaration = Regex::new(r"^(pub(\([^)]*\))? )?mod \w+;").expect("a valid pattern");
    let cut = text.match_indices(mark).map(|(at, _)| at).find(|at| !is_declaration.is_match(&text[at + mark.len()..]));
    &text[..cut.unwrap_or(text.len())]
}

/// The code of a file: without comments, and without its own tests (which may use what they like).
fn code_of(path: &Path) -> String {
    if is_tests(path) {
        return String::new();
    }
    let text = fs::read_to_string(path).expect("a source file can be read");
    let lines = before_tests(&text).lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules that a file names: `crate::x`, and `use crate::{x, y}`.
fn imports_of(code: &str) -> BTreeSet<String> {
    let one = Regex::new(r"\bcrate::(\w+)").expect("a valid pattern");
    let many = Regex::new(r"\bcrate::\{([^;]*)\}").expect("a valid pattern");
    let first = Regex::new(r"(?:^|,)\s*(\w+)").expect("a valid pattern");
    let mut found: BTreeSet<String> = one.captures_iter(code).map(|found| found[1].to_owned()).collect();
    for group in many.captures_iter(code) {
        // Only the first word of each member at the outer level is a module.
        let mut depth = 0;
        let flat: String = group[1]
            .chars()
            .filter(|c| {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => return depth == 0,
                }
                false
            })
            .collect();
        found.extend(first.captures_iter(&flat).map(|found| found[1].to_owned()));
    }
    found
}

#[test]
fn imports_go_one_way() {
    let table: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    let known: BTreeSet<String> = rust_files("src").iter().map(|path| module_of(path)).collect();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for path in rust_files("src") {
        let module = module_of(&path);
        if is_tests(&path) {
            continue;
        }
        if TOP.contains(&module.as_str()) {
            continue;
        }
        let Some(allowed) = table.get(module.as_str()) else {
            wrong.push(format!("{}: module `{module}` is not in the table of tests/tidy.rs", shown(&path)));
            continue;
        };
        for import in imports_of(&code_of(&path)) {
            if EXCEPTIONS.iter().any(|(from, to, _)| *from == module && *to == import) {
                used.insert((module.clone(), import));
                continue;
            }
            // Macros and items of the crate's root are no modules.
            if import != module && known.contains(&import) && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{}: `{module}` may not use `{import}`", shown(&path)));
            }
        }
    }
    for (from, to, _) in EXCEPTIONS {
        if !used.contains(&((*from).to_owned(), (*to).to_owned())) {
            wrong.push(format!("`{from}` no longer uses `{to}`: take the exception out"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_imports_has_no_cycle() {
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    while placed.len() < IMPORTS.len() {
        let next = IMPORTS
            .iter()
            .find(|(module, imports)| !placed.contains(module) && imports.iter().all(|import| placed.contains(import)));
        let Some((module, _)) = next else { panic!("a cycle among all but {placed:?}") };
        placed.insert(module);
    }
}

#[test]
fn codecs_pipeline_and_backoff_use_no_files_sockets_threads_or_clock() {
    let mut wrong = Vec::new();
    for path in rust_files("src") {
        let pure =
            ["codec", "pipeline", "backoff"].contains(&module_of(&path).as_str()) || path.ends_with("buffer/frame.rs");
        // The router is where the pipeline ends: it holds the queues of the sinks.
        if !pure || path.ends_with("pipeline/route.rs") {
            continue;
        }
        let code = code_of(&path);
        wrong
            .extend(IMPURE.iter().filter(|word| code.contains(**word)).map(|word| format!("{}: {word}", shown(&path))));
    }
    assert!(wrong.is_empty(), "pure code has:\n{}", wrong.join("\n"));
}

#[test]
fn threads_are_started_in_one_place() {
    for path in rust_files("src") {
        let code = code_of(&path);
        let spawns = code.contains("thread::spawn") || code.contains("thread::Builder");
        assert!(!spawns || module_of(&path) == "workers", "{} starts a thread", shown(&path));
    }
}

#[test]
fn every_file_introduces_itself_and_is_short() {
    let mut wrong = Vec::new();
    for path in ["src", "tests", "benches"].into_iter().flat_map(rust_files) {
        let text = fs::read_to_string(&path).expect("a source file can be read");
        // A file of tests is introduced by the file that it tests.
        if !text.starts_with("//! ") && !is_tests(&path) {
            wrong.push(format!("{}: does not open with a `//!` header", shown(&path)));
        }
        let lines = before_tests(&text).lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines, more than {LINES_MAX}", shown(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_is_part_of_the_program() {
    let mut dead = Vec::new();
    for path in rust_files("src") {
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let folder = path.parent().expect("it has one");
        if folder.ends_with("src") && ["lib", "main"].contains(&name) {
            continue;
        }
        // `a/mod.rs` is declared above `a`; `a/b.rs` in `a/mod.rs` or in `a.rs`.
        let (name, folder) = match name {
            "mod" => {
                (folder.file_name().and_then(|name| name.to_str()).expect("a name"), folder.parent().expect("one"))
            }
            name => (name, folder),
        };
        let file_name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let by_path = format!("#[path = \"{file_name}\"]");
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|file| folder.join(file));
        let declared = Regex::new(&format!(r"(?m)^\s*(pub(\([^)]*\))? )?mod {name};")).expect("a valid pattern");
        let sibling = folder.with_extension("rs");
        let found = parents
            .iter()
            .chain([&sibling])
            .any(|file| fs::read_to_string(file).is_ok_and(|text| declared.is_match(&text)));
        let found = found
            || rust_files("src")
                .iter()
                .any(|other| fs::read_to_string(other).is_ok_and(|text| text.contains(&by_path)));
        if !found {
            dead.push(shown(&path));
        }
    }
    assert!(dead.is_empty(), "no `mod` line names: {dead:?}");
}

#[test]
fn every_codec_has_a_fuzz_target_of_its_name_and_a_seed() {
    let codec = root().join("src/codec");
    let codecs: BTreeSet<String> = rust_files("src/codec")
        .iter()
        .filter_map(|path| path.strip_prefix(&codec).ok()?.components().next())
        .map(|first| first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned())
        .filter(|name| name != "mod" && !is_tests(&codec.join(format!("{name}.rs"))))
        .collect();
    let mut missing = Vec::new();
    for name in codecs {
        if !root().join(format!("fuzz/fuzz_targets/{name}.rs")).exists() {
            missing.push(format!("fuzz/fuzz_targets/{name}.rs"));
        }
        if files_under(&root().join("tests/corpus").join(&name)).is_empty() {
            missing.push(format!("tests/corpus/{name}/: at least one seed, which `cargo test` replays"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_source_has_no_unsafe_code_and_no_unfinished_part() {
    for path in rust_files("src") {
        let code = code_of(&path);
        for word in ["todo!(", "unimplemented!(", "dbg!(", "#[allow("] {
            assert!(!code.contains(word), "{} has {word}", shown(&path));
        }
    }
    for top in ["src/lib.rs", "src/main.rs"] {
        let text = fs::read_to_string(root().join(top)).expect("it is there");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{top} does not forbid unsafe code");
    }
}

#[test]
fn every_counter_and_every_reason_stands_in_the_documentation_and_nothing_else_does() {
    use longshore::budget::Budget;
    use longshore::metrics::followed::{Generation, LostBytes, Watching};
    use longshore::metrics::{DropReason, Health, LetterLoss, Metrics, Oddity, RejectReason};

    let page = fs::read_to_string(root().join("docs/counters.md")).expect("the page is there");
    let metrics = Metrics::new(&[("in", "stdin")], &[("out", "stdout")]);
    metrics.check("node", Health::Pass, "");
    metrics.inputs[0].followed.used.store(true, std::sync::atomic::Ordering::Relaxed);
    let text = metrics.exposition(&Budget::new(1 << 20));
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let followed = [Generation::NAMES, LostBytes::NAMES, Watching::NAMES].concat();
    let names = [Oddity::NAMES, RejectReason::NAMES, DropReason::NAMES, LetterLoss::NAMES, &followed].concat();
    let counted: BTreeSet<&str> = families.chain(names).collect();

    let first_cell = Regex::new(r"(?m)^\| `(\w+)` \|").expect("a valid pattern");
    let told: BTreeSet<&str> =
        first_cell.captures_iter(&page).map(|cell| cell.get(1).expect("a group").as_str()).collect();
    let missing: Vec<_> = counted.difference(&told).collect();
    let stale: Vec<_> = told.difference(&counted).collect();
    assert!(missing.is_empty() && stale.is_empty(), "docs/counters.md: missing {missing:?}, no longer there {stale:?}");
}

/// Pages that say which test shows what.
const PAGES_OF_TESTS: [&str; 3] = ["docs/forward.md", "docs/forward-cases.md", "docs/tail-cases.md"];

#[test]
fn every_test_that_a_page_names_is_there() {
    let code: String = ["src", "tests"]
        .into_iter()
        .flat_map(rust_files)
        .map(|path| fs::read_to_string(path).expect("a source file can be read"))
        .collect();
    // Names of tests are sentences; no key and no counter on these pages has five words.
    let test = Regex::new(r"`(\w+_\w+_\w+_\w+_\w+)`").expect("a valid pattern");
    let case = Regex::new(r#""([^"|]+)"[,;| ]"#).expect("a valid pattern");
    let mut missing = Vec::new();
    for page in PAGES_OF_TESTS {
        let text = fs::read_to_string(root().join(page)).expect("the page is there");
        let tests = test.captures_iter(&text).map(|found| format!("fn {}(", &found[1]));
        // Cases in quotes stand in the last column.
        let rows = text.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.rsplit(" | ").next());
        let cases = rows.flat_map(|cell| case.captures_iter(cell)).map(|found| format!("\"{}\"", &found[1]));
        let found: Vec<String> = tests.chain(cases).collect();
        assert!(found.len() > 20, "{page} names {} tests", found.len());
        missing.extend(
            found.into_iter().filter(|name| !code.contains(name.as_str())).map(|name| format!("{page}: {name}")),
        );
    }
    assert!(missing.is_empty(), "no such test: {missing:#?}");
}

#[test]
fn every_rule_and_every_yes_of_the_forward_page_names_its_test() {
    let page = fs::read_to_string(root().join("docs/forward.md")).expect("the page is there");
    let section = |title: &str| -> Vec<Vec<String>> {
        let text = page.split("\n## ").find(|part| part.starts_with(title)).expect("the section is there");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
        rows.skip(1).map(|row| row.split(" | ").map(str::to_owned).collect()).collect()
    };
    let test = Regex::new(r#"`\w+_\w+_\w+_\w+_\w+`|"[^"|]+"(?:[,;]|$)"#).expect("a valid pattern");
    let (rules, rows) = (section("One rule per oddity"), section("Beside other receivers"));
    assert!(rules.len() > 30 && rows.len() > 30, "{} rules, {} rows", rules.len(), rows.len());
    for rule in &rules {
        assert_eq!(rule.len(), 4, "what, what becomes of it, its counter, its test: {rule:?}");
        assert!(!rule[2].is_empty(), "a counter, or why there is none: {rule:?}");
        assert!(test.is_match(&rule[3]), "no test: {rule:?}");
    }
    for row in &rows {
        let reason = row[1].strip_prefix("no, ").is_some_and(|reason| reason.len() > 20);
        assert!(
            reason || row[1].starts_with("yes: ") && test.is_match(&row[1]),
            "a yes with its test, or why not: {row:?}"
        );
    }
}
