//! What can be measured: the works, and what a record of each looks like on the way in and out.
//!
//! A work is a shape of input, what is done to each record, and a kind of output. All shippers get the same bytes and
//! have to deliver the same records.

use clap::ValueEnum;
use serde_json::{Map, Value};

use super::generate::{self, Recipe};

/// One thing that shippers do all day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Docker json-file logs, `log` parsed as JSON, to an NDJSON file
    DockerFile,
    /// The same to an HTTP endpoint, in NDJSON requests
    DockerHttp,
    /// PackedForward chunks with acks, to an NDJSON file
    ForwardFile,
    /// What Docker's fluentd driver sends, one message a record, `log` parsed, to an NDJSON file
    MessageFile,
    /// Lines of a plain file, to an NDJSON file
    LineFile,
    /// The same to an HTTP endpoint
    LineHttp,
    /// Access-log lines taken apart by a regular expression, to an NDJSON file
    RegexFile,
    /// As forward-file, with acks only after what came is synced in the disk log
    Durable,
    /// Docker json-file logs that are rotated while they are written, to an NDJSON file
    Rotate,
}

/// Where the records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A folder like Docker's.
    Docker,
    /// One plain file.
    Lines,
    /// Chunks of a forwarder.
    Packed,
    /// Messages of Docker's driver.
    Messages,
}

/// The expression of `regex-file`, in the dialect that Rust, Onigmo and Vector share.
pub const PATTERN: &str = r#"^seq=(?<seq>\d+) (?<ip>\S+) \S+ (?<user>\S+) \[(?<when>[^\]]+)\] "(?<method>\S+) (?<path>\S+) (?<proto>[^"]+)" (?<status>\d+) (?<size>\d+) "(?<referer>[^"]*)" "(?<agent>[^"]*)"$"#;

impl Work {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Work::DockerFile => "docker-file",
            Work::DockerHttp => "docker-http",
            Work::ForwardFile => "forward-file",
            Work::MessageFile => "message-file",
            Work::LineFile => "line-file",
            Work::LineHttp => "line-http",
            Work::RegexFile => "regex-file",
            Work::Durable => "durable",
            Work::Rotate => "rotate",
        }
    }

    /// Where its records come from.
    pub fn from(self) -> From {
        match self {
            Work::DockerFile | Work::DockerHttp | Work::Rotate => From::Docker,
            Work::LineFile | Work::LineHttp | Work::RegexFile => From::Lines,
            Work::ForwardFile | Work::Durable => From::Packed,
            Work::MessageFile => From::Messages,
        }
    }

    /// Whether it goes to an HTTP endpoint; else to a file.
    pub fn to_http(self) -> bool {
        matches!(self, Work::DockerHttp | Work::LineHttp)
    }

    /// Whether `log` is parsed as JSON on the way.
    pub fn parses_json(self) -> bool {
        matches!(self.from(), From::Docker | From::Messages)
    }

    /// Appends the bytes of record `seq` as they come in: a line with its end, or a forward message.
    pub fn input(self, recipe: &Recipe, seq: u64, out: &mut Vec<u8>) {
        match self.from() {
            From::Docker => generate::docker_line(recipe, seq, out),
            From::Lines => {
                recipe.line(seq, out);
                out.push(b'\n');
            }
            From::Packed => generate::packed_entry(recipe, seq, out),
            From::Messages => generate::message(recipe, seq, out),
        }
    }

    /// The fields that record `seq` has to have when it comes out: what the application wrote, and of a Docker file what
    /// Docker says of it. What a shipper adds is its own business, and so is under which names it keeps what Docker's
    /// fluentd driver sends of the container.
    pub fn expected(self, recipe: &Recipe, seq: u64) -> Map<String, Value> {
        let mut text = Vec::new();
        let log = |text: Vec<u8>| {
            let text = String::from_utf8_lossy(&text).into_owned();
            Map::from_iter([("log".to_owned(), Value::String(text))])
        };
        match self.from() {
            From::Lines => {
                recipe.line(seq, &mut text);
                if self != Work::RegexFile {
                    return log(text);
                }
                generate::line_fields(&String::from_utf8_lossy(&text))
            }
            From::Packed => {
                recipe.record(seq, &mut text);
                serde_json::from_slice(&text).unwrap_or_default()
            }
            from @ (From::Docker | From::Messages) => {
                recipe.log(seq, &mut text);
                let mut fields: Map<_, _> = serde_json::from_slice(&text).unwrap_or_else(|_| log(text));
                if from == From::Docker {
                    let said = generate::docker_fields(seq);
                    fields.extend(said.map(|(key, value)| (key.to_owned(), Value::String(value))));
                }
                fields
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::generate::Shape;
    use super::*;

    #[test]
    fn each_work_has_the_name_that_the_command_line_knows_it_by() {
        for work in Work::value_variants() {
            let known = work.to_possible_value().expect("none is hidden");
            assert_eq!(known.get_name(), work.name());
        }
    }

    #[test]
    fn the_pattern_finds_the_fields_that_are_expected() {
        let pattern = regex::Regex::new(PATTERN).expect("valid");
        let recipe = Recipe { shape: Shape::Normal, line_size: None };
        let mut line = Vec::new();
        recipe.line(7, &mut line);
        let line = String::from_utf8(line).expect("text");
        let found = pattern.captures(&line).expect("it matches");
        let expected = Work::RegexFile.expected(&recipe, 7);
        assert_eq!(expected.len(), 11);
        for (name, value) in expected {
            assert_eq!(found.name(&name).map(|part| part.as_str()), value.as_str(), "{name}");
        }
    }

    #[test]
    fn what_is_expected_of_any_shape_is_a_record_that_says_its_number() {
        for work in Work::value_variants() {
            for shape in Shape::value_variants() {
                if *work == Work::RegexFile && *shape != Shape::Normal {
                    continue;
                }
                let recipe = Recipe { shape: *shape, line_size: Some(700) };
                let expected = Value::Object(work.expected(&recipe, 4711)).to_string();
                assert!(expected.contains("4711"), "{} {shape:?}: {expected}", work.name());
                let mut input = Vec::new();
                work.input(&recipe, 4711, &mut input);
                // MessagePack is shorter than the JSON that was filled up; Docker escapes.
                let most = if *shape == Shape::Large { 6000 } else { 1500 };
                assert!((500..most).contains(&input.len()), "{} {shape:?}: {}", work.name(), input.len());
            }
        }
    }
}
