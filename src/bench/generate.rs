//! The records of a bench: made from their number alone, so that the sink can tell what each has to look like.

use std::io::Write as _;

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::codec::msgpack::{from_json, write};
use crate::metrics::Tally;
use crate::record::Timestamp;

/// What a record looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// A JSON object of ten fields, one nested; in plain files an access-log line
    Normal,
    /// Two fields
    Small,
    /// Fields and 3.5 KiB of stack trace
    Large,
    /// Objects and arrays, twelve levels deep
    Nested,
    /// Quotes, backslashes, line breaks, tabs and `<` in the texts
    Escaped,
    /// A text that is no JSON
    Text,
    /// Texts in Cyrillic, Chinese and emoji
    MultiByte,
}

/// How records are made.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// What they look like.
    pub shape: Shape,
    /// About how long they are, filled up with text, or cut where they are text; as long as they come without it.
    pub line_size: Option<usize>,
}

/// 2026-11-23T10:15:00Z: records are a millisecond apart from there.
const START_NS: i64 = 1_795_428_900_000_000_000;
const LEVELS: [&str; 4] = ["info", "warn", "debug", "error"];
const PATHS: [&str; 3] = ["items", "orders", "users"];

fn time(seq: u64) -> Timestamp {
    Timestamp(START_NS + (seq as i64 % 1_000_000_000) * 1_000_000 + 123_456)
}

/// Writing to memory does not fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => { let _ = write!($out, $($arg)*); };
}

impl Recipe {
    /// What the application prints: an object in JSON, or a text.
    pub fn log(&self, seq: u64, out: &mut Vec<u8>) {
        match self.shape {
            Shape::Text => self.text(seq, out),
            _ => self.object(seq, out),
        }
    }

    /// The fields of a record that is sent as one, in JSON.
    pub fn record(&self, seq: u64, out: &mut Vec<u8>) {
        if self.shape == Shape::Normal {
            put!(
                out,
                r#"{{"seq":{seq},"log":"10.0.{}.7 - - \"GET /api/items/{seq}?page=2&size=50 HTTP/1.1\" 200 5{seq} \"-\" \"Mozilla/5.0 (X11; Linux x86_64)\"","stream":"stdout","level":"{}","status":{},"took":{:?},"kubernetes":{{"namespace":"shop","pod":"web-{}","image":"shop/web:1.27"}}"#,
                seq % 250,
                LEVELS[seq as usize % 4],
                200 + seq % 300,
                seq as f64 / 8.0,
                seq % 100
            );
            self.fill(out, 1);
            out.push(b'}');
        } else if self.shape == Shape::Text {
            let mut text = Vec::new();
            self.text(seq, &mut text);
            put!(out, r#"{{"log":{}}}"#, Value::String(String::from_utf8_lossy(&text).into_owned()));
        } else {
            self.object(seq, out);
        }
    }

    /// A line of a plain file, without its end.
    pub fn line(&self, seq: u64, out: &mut Vec<u8>) {
        let from = out.len();
        match self.shape {
            Shape::Normal => {
                put!(
                    out,
                    r#"seq={seq} 203.0.{}.{} - user-{} [23/Nov/2026:10:15:{:02} +0000] "GET /api/v1/{}/{seq}?page=2&size=50&sort=name&filter=status%3Dopen HTTP/1.1" {} {} "https://shop.example.com/catalog/{}?utm_source=newsletter&utm_medium=email&utm_campaign=autumn" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0 request-{:08x}"#,
                    seq % 250,
                    seq % 199,
                    seq % 1000,
                    seq % 60,
                    PATHS[seq as usize % 3],
                    200 + seq % 5,
                    5000 + seq % 900,
                    PATHS[seq as usize % 3],
                    seq.wrapping_mul(2_654_435_761) as u32
                );
                // 541 bytes, as the access logs of a busy site have.
                let wanted = self.line_size.unwrap_or(541).saturating_sub(2);
                pad(out, from, wanted);
                out.push(b'"');
            }
            Shape::Text => self.text(seq, out),
            _ => {
                put!(out, "seq={seq} ");
                self.object(seq, out);
            }
        }
    }

    fn text(&self, seq: u64, out: &mut Vec<u8>) {
        let from = out.len();
        put!(out, "seq={seq} ");
        let shortest = out.len();
        put!(
            out,
            "{} [worker-{}] request for /api/v1/{} handled in {} ms: [ok], {{cache}} miss",
            LEVELS[seq as usize % 4],
            seq % 16,
            PATHS[seq as usize % 3],
            seq % 900
        );
        // With its line break.
        if let Some(wanted) = self.line_size.map(|size| size.saturating_sub(1)) {
            out.truncate(shortest.max(from + wanted));
            pad(out, from, wanted);
        }
    }

    fn object(&self, seq: u64, out: &mut Vec<u8>) {
        let from = out.len();
        let (level, path) = (LEVELS[seq as usize % 4], PATHS[seq as usize % 3]);
        match self.shape {
            Shape::Small | Shape::Text => {
                put!(out, r#"{{"seq":{seq},"msg":"ok""#);
            }
            Shape::Normal | Shape::Large => {
                put!(
                    out,
                    r#"{{"seq":{seq},"level":"{level}","ts":"2026-11-23T10:15:{:02}.{:03}Z","msg":"request handled","method":"GET","path":"/api/v1/{path}/{seq}","status":{},"ok":{},"took_ms":{}.{},"user":{{"id":{},"name":"user-{}","note":"likes the sea"}}"#,
                    seq % 60,
                    seq % 1000,
                    200 + seq % 5,
                    !seq.is_multiple_of(7),
                    seq % 90,
                    1 + seq % 9,
                    10_000 + seq,
                    seq % 5000
                );
                if self.shape == Shape::Large {
                    out.extend_from_slice(br#","stack":""#);
                    for frame in 0..60 {
                        put!(out, r"    at com.example.shop.Handler{frame}.handle(Handler.java:{})\n", frame * 7 + 1);
                    }
                    out.push(b'"');
                }
            }
            Shape::Nested => {
                put!(out, r#"{{"seq":{seq},"trace":{{"span":"#);
                for level in 0..8 {
                    put!(out, r#"{{"id":{},"tags":["a",{level},null,true],"child":"#, seq + level);
                }
                out.extend_from_slice(br#"[1,2.5,{"leaf":"end"}]"#);
                out.extend_from_slice(&[b'}'; 9]);
            }
            Shape::Escaped => {
                put!(
                    out,
                    r#"{{"seq":{seq},"msg":"said \"hello\", then\n\t\"good bye\" to C:\\Users\\user-{}\\","html":"<a href=\"/{path}\">{level} & more</a>","quote":"\"\"\"\"","bell":"\u0007\u00e9""#,
                    seq % 100
                );
            }
            Shape::MultiByte => {
                put!(
                    out,
                    r#"{{"seq":{seq},"msg":"запрос обработан","city":"東京都渋谷区","mood":"🚢🌊 {level}","path":"/товары/{seq}""#
                );
            }
        }
        self.fill(out, out.len() - from);
        out.push(b'}');
    }

    /// Fills an open object up with one more member.
    fn fill(&self, out: &mut Vec<u8>, so_far: usize) {
        let from = out.len() - so_far;
        let wanted = self.line_size.unwrap_or(0);
        if wanted > so_far + 10 {
            out.extend_from_slice(br#","pad":""#);
            pad(out, from, wanted - 2);
            out.push(b'"');
        }
    }
}

/// Fills up to `wanted` bytes from `from` on with words.
fn pad(out: &mut Vec<u8>, from: usize, wanted: usize) {
    const WORDS: &[u8] = b" lorem ipsum dolor sit amet consetetur sadipscing elitr sed diam nonumy eirmod tempor";
    while out.len() - from < wanted {
        let left = wanted - (out.len() - from);
        out.extend_from_slice(&WORDS[..left.min(WORDS.len())]);
    }
}

/// What Docker says of record `seq` besides its text.
pub fn docker_fields(seq: u64) -> [(&'static str, String); 2] {
    let mut when = Vec::new();
    crate::codec::time::write_rfc3339(time(seq), &mut when);
    let stream = ["stdout", "stderr"][seq as usize % 2];
    [("stream", stream.to_owned()), ("time", String::from_utf8_lossy(&when).into_owned())]
}

/// A line as Docker's json-file driver writes it: Go's JSON, which escapes `<`, `>` and `&` too.
pub fn docker_line(recipe: &Recipe, seq: u64, out: &mut Vec<u8>) {
    let mut log = Vec::new();
    recipe.log(seq, &mut log);
    out.extend_from_slice(br#"{"log":""#);
    for byte in log {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'<' | b'>' | b'&' => {
                put!(out, "\\u00{byte:02x}");
            }
            _ => out.push(byte),
        }
    }
    out.extend_from_slice(br#"\n""#);
    for (key, value) in docker_fields(seq) {
        put!(out, r#","{key}":"{value}""#);
    }
    out.extend_from_slice(b"}\n");
}

/// `[time, record]`, as a forwarder packs them.
pub fn packed_entry(recipe: &Recipe, seq: u64, out: &mut Vec<u8>) {
    let mut record = Vec::new();
    recipe.record(seq, &mut record);
    write::array(2, out);
    write::event_time(time(seq), out);
    let taken = from_json::value(&record, out, &mut Tally::default());
    debug_assert!(taken, "the generator writes JSON: {}", String::from_utf8_lossy(&record));
}

/// A frame of entries with a chunk id.
pub fn packed_frame(entries: &[u8], records: usize, chunk: &str, out: &mut Vec<u8>) {
    write::array(3, out);
    write::text(b"bench.packed", out);
    write::bin(entries, out);
    write::map(2, out);
    write::text(b"chunk", out);
    write::text(chunk.as_bytes(), out);
    write::text(b"size", out);
    write::unsigned(records as u64, out);
}

/// A frame as Docker's fluentd driver writes it, without an ack.
pub fn message(recipe: &Recipe, seq: u64, out: &mut Vec<u8>) {
    let mut log = Vec::new();
    recipe.log(seq, &mut log);
    write::array(4, out);
    write::text(b"bench.message", out);
    write::unsigned(time(seq).0 as u64 / 1_000_000_000, out);
    write::map(4, out);
    let id = "4f9c1b6d1d3c5a7e9b2d4f6a8c0e1f3a5b7d9e1c3a5f7b9d1e3c5a7f9b1d3e5c";
    for (key, value) in [("container_id", id), ("container_name", "/web-1"), ("source", "stdout")] {
        write::text(key.as_bytes(), out);
        write::text(value.as_bytes(), out);
    }
    write::text(b"log", out);
    write::text(&log, out);
    write::map(0, out);
}

/// The fields of a line of [`Shape::Normal`], by hand: what the pattern of `regex-file` has to find.
pub fn line_fields(line: &str) -> Map<String, Value> {
    let quoted: Vec<&str> = line.split('"').collect();
    let [head, request, numbers, referer, _, agent, ..] = quoted[..] else { return Map::new() };
    let mut head = head.split(' ');
    let mut word = || head.next().unwrap_or_default();
    let (seq, ip, _, user) = (word().trim_start_matches("seq="), word(), word(), word());
    let when = format!("{} {}", word().trim_start_matches('['), word().trim_end_matches(']'));
    let mut request = request.splitn(3, ' ');
    let mut part = || request.next().unwrap_or_default();
    let (method, path, proto) = (part(), part(), part());
    let (status, size) = numbers.trim().split_once(' ').unwrap_or_default();
    let fields = [
        ("seq", seq),
        ("ip", ip),
        ("user", user),
        ("when", &when),
        ("method", method),
        ("path", path),
        ("proto", proto),
        ("status", status),
        ("size", size),
        ("referer", referer),
        ("agent", agent),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_line_holds_the_application_s_text_and_a_line_break() {
        for shape in Shape::value_variants() {
            let recipe = Recipe { shape: *shape, line_size: None };
            let (mut line, mut log) = (Vec::new(), Vec::new());
            docker_line(&recipe, 12, &mut line);
            recipe.log(12, &mut log);
            let read: Map<String, Value> = serde_json::from_slice(&line).expect("JSON");
            assert_eq!(read["log"].as_str().map(|text| text.as_bytes()), Some(&[log, b"\n".to_vec()].concat()[..]));
            assert_eq!(read["stream"], "stdout");
        }
    }

    #[test]
    fn every_shape_but_text_is_an_object() {
        for shape in Shape::value_variants() {
            for line_size in [None, Some(64), Some(5000)] {
                let recipe = Recipe { shape: *shape, line_size };
                let mut log = Vec::new();
                recipe.log(3, &mut log);
                let read = serde_json::from_slice::<Map<String, Value>>(&log);
                assert_eq!(read.is_ok(), *shape != Shape::Text, "{shape:?}: {read:?}");
                log.clear();
                recipe.record(3, &mut log);
                assert!(serde_json::from_slice::<Map<String, Value>>(&log).is_ok(), "{shape:?}");
            }
        }
    }

    #[test]
    fn a_stack_trace_is_as_long_and_a_nested_record_as_deep_as_their_shapes_say() {
        fn depth(value: &Value) -> usize {
            match value {
                Value::Array(all) => 1 + all.iter().map(depth).max().unwrap_or_default(),
                Value::Object(all) => 1 + all.values().map(depth).max().unwrap_or_default(),
                _ => 0,
            }
        }
        let object = |shape| {
            let mut log = Vec::new();
            Recipe { shape, line_size: None }.log(5, &mut log);
            serde_json::from_slice::<Value>(&log).expect("JSON")
        };
        let stack = object(Shape::Large)["stack"].as_str().expect("a text").len();
        assert!((3400..3700).contains(&stack), "{stack}");
        assert_eq!(depth(&object(Shape::Nested)), 12);
    }

    #[test]
    fn an_entry_is_the_record_in_messagepack() {
        let recipe = Recipe { shape: Shape::Normal, line_size: None };
        let mut entry = Vec::new();
        packed_entry(&recipe, 9, &mut entry);
        let read = rmpv::decode::read_value(&mut &entry[..]).expect("MessagePack");
        assert_eq!(read[1]["seq"].as_u64(), Some(9));
        assert_eq!(read[1]["kubernetes"]["pod"].as_str(), Some("web-9"));
    }
}
