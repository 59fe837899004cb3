//! Tests of the steps, from the text of a configuration to JSON lines, and what they share.

mod conditions;
mod driver;
mod join;
mod mistakes;
mod nested;
mod random;
mod steps;

use std::sync::Arc;

use toml::de::DeTable;

use super::{JoinRule, Pipeline};
use crate::batch::{Added, Batch, RowHead};
use crate::budget::Budget;
use crate::codec::{json, ndjson, time};
use crate::metrics::{DropReason, Oddity};
use crate::record::{Container, Field, Form, Origin, Stream, Timestamp};
use crate::settings::{Doc, Section};

/// 2026-11-24T11:00:00Z.
const NOW: Timestamp = Timestamp(1_795_518_000_000_000_000);
const NONE: Added = Added::NONE;

/// A pipeline from the steps' text, and what was found wrong with it.
fn read(steps: &str) -> (Pipeline, Vec<String>) {
    let text = format!("steps = [{steps}]");
    let doc = Doc::new("c.toml", &text, |name| (name == "ENVIRONMENT").then(|| "prod".to_owned()));
    let table = DeTable::parse(&text).expect("valid TOML");
    let section = Section::new(&doc, table.get_ref(), "pipeline", table.span());
    let pipeline = Pipeline::read(Some(&section));
    section.finish();
    (pipeline, doc.findings().iter().map(|finding| doc.render(finding)).collect())
}

fn pipeline(steps: &str) -> Pipeline {
    let (pipeline, found) = read(steps);
    assert_eq!(found, Vec::<String>::new(), "{steps}");
    pipeline
}

fn empty() -> Batch {
    let container = Container {
        id: "0123456789abcdef".repeat(4),
        name: "web".to_owned(),
        image: "nginx:1".to_owned(),
        labels: vec![("com.example.tier".to_owned(), "front".to_owned())],
    };
    let origin = Origin { container: Some(container), file: Some("/var/log/x".to_owned()), peer: None };
    Batch::new(Budget::new(64 << 20).empty_permit(), 0, Arc::new(origin))
}

/// Adds a record that is a JSON object, with JSON values.
fn push_json(batch: &mut Batch, tag: &str, text: &str) {
    let tag = batch.tag_index(tag).expect("room for a tag");
    let mark = batch.fields_mark();
    let span = batch.push_bytes(text.as_bytes());
    json::push_members(batch, span, 128).expect("a JSON object");
    batch.push_row(mark, RowHead { stream: Stream::Stdout, ..RowHead::at(Timestamp(0), tag) });
}

/// The same record as it comes from the forward protocol: texts, and MessagePack for everything else.
fn push_msgpack(batch: &mut Batch, tag: &str, text: &str) {
    let tag = batch.tag_index(tag).expect("room for a tag");
    let mark = batch.fields_mark();
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).expect("a JSON object");
    for (key, value) in &object {
        let key = batch.push_bytes(key.as_bytes());
        let field = match value {
            serde_json::Value::String(text) => Field::new(key, Form::Text, batch.push_bytes(text.as_bytes())),
            other => Field::new(key, Form::Msg, batch.push_bytes(&msgpack(other))),
        };
        batch.push_field(field);
    }
    batch.push_row(mark, RowHead { stream: Stream::Stdout, ..RowHead::at(Timestamp(0), tag) });
}

fn msgpack(value: &serde_json::Value) -> Vec<u8> {
    fn convert(value: &serde_json::Value) -> rmpv::Value {
        match value {
            serde_json::Value::Null => rmpv::Value::Nil,
            serde_json::Value::Bool(flag) => (*flag).into(),
            serde_json::Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => number.into(),
                (_, Some(number)) => number.into(),
                _ => number.as_f64().unwrap_or(0.0).into(),
            },
            serde_json::Value::String(text) => text.as_str().into(),
            serde_json::Value::Array(items) => rmpv::Value::Array(items.iter().map(convert).collect()),
            serde_json::Value::Object(members) => {
                rmpv::Value::Map(members.iter().map(|(key, value)| (key.as_str().into(), convert(value))).collect())
            }
        }
    }
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, &convert(value)).expect("a Vec takes all");
    out
}

/// The records of a batch as JSON.
fn lines(batch: &Batch, added: Added) -> Vec<String> {
    let mut encoder = ndjson::Encoder::new(added);
    let line = |at| {
        let mut out = Vec::new();
        encoder.row(batch, at, &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    };
    (0..batch.len()).map(line).collect()
}

/// Runs steps over one record with tag `t`, as JSON and (with its fields sorted) as MessagePack.
fn run_both(steps: &str, record: &str) -> (Batch, Batch) {
    let pipeline = pipeline(steps);
    let run = |push: fn(&mut Batch, &str, &str)| {
        let mut batch = empty();
        push(&mut batch, "t", record);
        pipeline.apply(&mut pipeline.lane(JoinRule::None), &mut batch, NOW);
        batch
    };
    (run(push_json), run(push_msgpack))
}

fn odd(batch: &Batch, what: Oddity) -> u32 {
    batch.tally.oddities[what as usize]
}

fn dropped(batch: &Batch) -> u32 {
    batch.tally.dropped[DropReason::Step as usize]
}

/// The time of row `at` as text.
fn time_of(batch: &Batch, at: usize) -> String {
    let mut out = Vec::new();
    time::write_rfc3339(batch.row(at).time, &mut out);
    String::from_utf8(out).expect("ASCII")
}
