//! The forward protocol to NDJSON, beside the obvious loop over `rmpv` trees and `serde_json`.
//!
//! Input: records as Fluent Bit tails them, `[EventTime, map]`, 1,000 in a PackedForward frame: `log` (a 120-byte
//! access-log line), `stream`, `level`, a number, a float and a map of three texts, some 290 bytes each. `message` is
//! the same records as Docker's driver sends them: one Message mode frame each, five texts.
//! Work: decode the frame, check all of it, write one NDJSON line a record with `time` and `tag`. Measured is CPU time of the
//! thread.
//!
//! Figures (2026-11-30, a busy machine, EPYC, once, plain x86-64 build), microseconds a record: PackedForward 0.38 against 2.6 of
//! the loop (6.8x), Message 0.47 against 2.3 (4.9x). The goal is 4x. `longshore_as_it_came` keeps records as spans of their
//! MessagePack, as is done where a step or a forward sink wants them: 0.51 (5.1x; JSON on the way in saves a quarter) and 0.44
//! (5.1x: records of Docker's driver go that way in any case).
//!
//! `forward_pieces` is a frame of 5 MiB that is decoded as it arrives, the same records in it: at once, and with one byte
//! more at each call. Milliseconds for the frame: decoding alone 2.8 at once, 16 in single bytes; with NDJSON 8.5 at once, 23.5
//! in single bytes: 2.8 times (goal 3). Before a byte that can change nothing was told by one look, and a blob was looked at
//! once a KiB instead of every few bytes, 64 and 55. What is left is some 2 ns a call. (A program reads what its socket has; a
//! `read` for each byte costs far more than that.) In pieces of 4 KiB it costs 1.0 to 1.2 times.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longshore::batch::{Added, Batch};
use longshore::budget::Budget;
use longshore::codec::forward::{Decoder, Limits, Step};
use longshore::codec::msgpack::write;
use longshore::codec::ndjson::Encoder;
use longshore::record::Timestamp;

mod cpu_time;

use cpu_time::CpuTime;

const RECORDS: usize = 1000;
/// Bytes of the frame that comes in pieces, at least.
const LARGE: usize = 5 << 20;

fn text_pairs(pairs: &[(&str, &str)], out: &mut Vec<u8>) {
    for (key, value) in pairs {
        write::text(key.as_bytes(), out);
        write::text(value.as_bytes(), out);
    }
}

fn time(n: usize) -> Timestamp {
    Timestamp(1_700_000_000_000_000_000 + n as i64 * 1_234_567)
}

fn packed(records: usize) -> Vec<u8> {
    let mut blob = Vec::new();
    for n in 0..records {
        write::array(2, &mut blob);
        write::event_time(time(n), &mut blob);
        write::map(6, &mut blob);
        let log = format!(
            "10.0.{}.7 - - \"GET /api/items/{n}?page=2&size=50 HTTP/1.1\" 200 5{n} \"-\" \"Mozilla/5.0 (X11; Linux x86_64)\"",
            n % 250
        );
        text_pairs(&[("log", &log), ("stream", "stdout"), ("level", "info")], &mut blob);
        write::text(b"status", &mut blob);
        write::unsigned(200 + n as u64 % 300, &mut blob);
        write::text(b"took", &mut blob);
        blob.push(0xcb);
        blob.extend((n as f64 / 8.0).to_be_bytes());
        write::text(b"kubernetes", &mut blob);
        write::map(3, &mut blob);
        text_pairs(&[("pod", "web-5f7c9d7b4-x2x7q"), ("namespace", "shop"), ("host", "node-17")], &mut blob);
    }
    let mut frame = Vec::new();
    write::array(3, &mut frame);
    write::text(b"api.web", &mut frame);
    write::bin(&blob, &mut frame);
    write::map(1, &mut frame);
    text_pairs(&[("chunk", "cDE5NGZmYTAtYjM2Yg==")], &mut frame);
    frame
}

fn messages() -> Vec<u8> {
    let mut out = Vec::new();
    for n in 0..RECORDS {
        write::array(4, &mut out);
        write::text(b"api.web", &mut out);
        write::unsigned(1_700_000_000 + n as u64 / 100, &mut out);
        write::map(4, &mut out);
        let log = format!("{{\"level\":\"info\",\"n\":{n},\"message\":\"served /api/items/{n} in 12 ms\"}}");
        let id = "4f9c1b6d1d3c5a7e9b2d4f6a8c0e1f3a5b7d9e1c3a5f7b9d1e3c5a7f9b1d3e5c";
        text_pairs(
            &[("container_id", id), ("container_name", "/web-1"), ("source", "stdout"), ("log", &log)],
            &mut out,
        );
        write::map(0, &mut out);
    }
    out
}

fn ours(frames: &[u8], budget: &Arc<Budget>, decoder: &mut Decoder, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let mut permit = budget.empty_permit();
    permit.grow(4 << 20);
    let mut batch = Batch::new(permit, 0, Arc::default());
    let mut from = 0;
    loop {
        let (used, step) = decoder.decode(&frames[from..], &mut batch, time(0));
        from += used;
        match step {
            Step::NeedMore => break,
            Step::FrameEnd => (),
            other => panic!("good frames, but {other:?}"),
        }
    }
    assert_eq!(batch.len(), RECORDS);
    for at in 0..batch.len() {
        encoder.row(&batch, at, out);
        out.push(b'\n');
    }
}

fn tree(value: &rmpv::Value) -> serde_json::Value {
    match value {
        rmpv::Value::Nil => serde_json::Value::Null,
        rmpv::Value::Boolean(flag) => (*flag).into(),
        rmpv::Value::Integer(number) => number.as_u64().map_or_else(|| number.as_i64().into(), Into::into),
        rmpv::Value::F32(number) => (*number).into(),
        rmpv::Value::F64(number) => (*number).into(),
        rmpv::Value::String(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        rmpv::Value::Binary(bytes) => String::from_utf8_lossy(bytes).into(),
        rmpv::Value::Array(items) => items.iter().map(tree).collect(),
        rmpv::Value::Map(pairs) => {
            pairs.iter().map(|(key, value)| (key.as_str().unwrap_or_default().to_owned(), tree(value))).collect()
        }
        rmpv::Value::Ext(..) => serde_json::Value::Null,
    }
}

/// One `[time, record]` of the obvious loop.
fn obvious_entry(time: &rmpv::Value, record: &rmpv::Value, tag: &str, out: &mut Vec<u8>) {
    let seconds = match time {
        rmpv::Value::Ext(0, data) => u64::from(u32::from_be_bytes(data[..4].try_into().expect("8 bytes"))),
        other => other.as_u64().unwrap_or_default(),
    };
    let mut record = tree(record);
    record["time"] = seconds.into();
    record["tag"] = tag.into();
    serde_json::to_writer(&mut *out, &record).expect("writing to memory");
    out.push(b'\n');
}

fn obvious(mut frames: &[u8], out: &mut Vec<u8>) {
    while !frames.is_empty() {
        let frame = rmpv::decode::read_value(&mut frames).expect("a good frame");
        let tag = frame[0].as_str().expect("a tag");
        if let Some(mut blob) = frame[1].as_slice() {
            while !blob.is_empty() {
                let entry = rmpv::decode::read_value(&mut blob).expect("a good entry");
                obvious_entry(&entry[0], &entry[1], tag, out);
            }
        } else {
            obvious_entry(&frame[1], &frame[2], tag, out);
        }
    }
}

/// The records of lines, without their time, of which the obvious loop has but the seconds, and those of Docker's driver in
/// the shape of a json-file line, which it does not give them.
fn records(lines: &[u8]) -> Vec<serde_json::Value> {
    let record = |line| {
        let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).expect("valid");
        assert!(fields.remove("time").is_some(), "a line without a time");
        if let Some(id) = fields.remove("container_id") {
            let name = fields.remove("container_name").expect("made so above");
            let name = name.as_str().and_then(|name| name.strip_prefix('/'));
            fields.insert("container".to_owned(), serde_json::json!({ "id": id, "name": name }));
            let source = fields.remove("source").expect("made so above");
            fields.insert("stream".to_owned(), source);
        }
        fields.into()
    };
    lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(record).collect()
}

fn forward(c: &mut Criterion<CpuTime>) {
    let budget = Budget::new(64 << 20);
    for (name, frames) in [("packed", packed(RECORDS)), ("message", messages())] {
        let mut group = c.benchmark_group(format!("forward_{name}"));
        group.throughput(Throughput::Elements(RECORDS as u64));
        let mut out = Vec::with_capacity(2 << 20);
        obvious(&frames, &mut out);
        let expected = records(&out);
        // As JSON while they are decoded, and as spans of what came, which the encoder walks again.
        for (way, as_json) in [("longshore", true), ("longshore_as_it_came", false)] {
            let (mut decoder, mut encoder) = (Decoder::new(Limits::default(), true), Encoder::new(Added::ALL));
            decoder.set_as_json(as_json);
            out.clear();
            ours(&frames, &budget, &mut decoder, &mut encoder, &mut out);
            assert_eq!(records(&out), expected, "{way}: the same records before either is timed");
            group.bench_function(BenchmarkId::from_parameter(way), |b| {
                b.iter(|| {
                    out.clear();
                    ours(black_box(&frames), &budget, &mut decoder, &mut encoder, &mut out);
                    black_box(out.len());
                });
            });
        }
        group.bench_function(BenchmarkId::from_parameter("rmpv_serde_json"), |b| {
            b.iter(|| {
                out.clear();
                obvious(black_box(&frames), &mut out);
                black_box(out.len());
            });
        });
        group.finish();
    }
}

/// Decodes a frame of which `piece` bytes more are there at each call, as it arrives; as NDJSON with an encoder.
fn arriving(frame: &[u8], piece: usize, budget: &Arc<Budget>, encoder: Option<&mut Encoder>, out: &mut Vec<u8>) {
    let mut permit = budget.empty_permit();
    permit.grow(64 << 20);
    let mut batch = Batch::new(permit, 0, Arc::default());
    let mut decoder = Decoder::new(Limits::default(), true);
    let (mut from, mut to) = (0, 0);
    while from < frame.len() {
        let (used, step) = decoder.decode(&frame[from..to], &mut batch, time(0));
        from += used;
        match step {
            Step::NeedMore => to = (to + piece).min(frame.len()),
            Step::FrameEnd => (),
            other => panic!("a good frame, but {other:?}"),
        }
    }
    assert!(batch.len() > RECORDS);
    black_box(batch.len());
    if let Some(encoder) = encoder {
        for at in 0..batch.len() {
            encoder.row(&batch, at, out);
            out.push(b'\n');
        }
    }
}

fn pieces(c: &mut Criterion<CpuTime>) {
    let budget = Budget::new(256 << 20);
    let frame = packed(LARGE / (packed(RECORDS).len() / RECORDS) + 1);
    assert!(frame.len() >= LARGE);
    let mut out = Vec::with_capacity(16 << 20);
    let mut group = c.benchmark_group("forward_pieces");
    group.sample_size(10).throughput(Throughput::Bytes(frame.len() as u64));
    for (name, piece) in [("one", frame.len()), ("4096_bytes", 4096), ("1_byte", 1)] {
        for to_ndjson in [false, true] {
            let work = if to_ndjson { "ndjson" } else { "decode" };
            let mut encoder = Encoder::new(Added::ALL);
            group.bench_function(BenchmarkId::new(work, name), |b| {
                b.iter(|| {
                    out.clear();
                    arriving(black_box(&frame), piece, &budget, to_ndjson.then_some(&mut encoder), &mut out);
                    black_box(out.len());
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = forward, pieces
}
criterion_main!(benches);
