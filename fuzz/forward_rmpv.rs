//! The forward decoder against a reader that is written with rmpv and no care for speed, on any bytes.
//!
//! The reader understands what every sender writes: Message, Forward and PackedForward with text tags, text keys, whole or
//! event times. As far as a stream consists of such frames, the records must be the same, one by
//! one; and as far as the decoder finds no fault with the framing, the two must agree where each frame ends. What a
//! receiver makes of the rest (odd keys, bad times, compression) is said by `docs/forward.md` and tested beside the code.
//!
//! Shared by the fuzz target `forward_rmpv` and by `tests/forward_rmpv.rs`.

use std::sync::Arc;

use longshore::batch::Batch;
use longshore::budget::Budget;
use longshore::codec::forward::{Decoder, Limits, Step};
use longshore::codec::ndjson::Encoder;
use longshore::record::{Added, Field, Form, Timestamp};
use rmpv::Value;

/// Brackets within each other that a record of a plain frame has at most; far below both readers' limits.
const DEPTH: usize = 16;
/// Bytes of input, at most: far below the size from which a frame is decoded before it is whole.
const INPUT: usize = 64 << 10;

/// One record: tag, nanoseconds, and the fields.
#[derive(Debug, PartialEq)]
pub struct Record(String, i64, serde_json::Value);

/// What was compared, so that a test can see that it compared something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub records: usize,
    /// Those of `records` that were written as JSON while they were decoded.
    pub as_json: usize,
    pub frames: usize,
}

/// Compares the reader with both ways of the decoder: records that are kept as they came, and such as become JSON at once,
/// as they do where all sinks write JSON. What is returned is of the latter.
pub fn check(data: &[u8]) -> Compared {
    let data = &data[..data.len().min(INPUT)];
    compare(data, false);
    compare(data, true)
}

fn compare(data: &[u8], as_json: bool) -> Compared {
    let ours = decode(data, as_json);
    let mut rest = data;
    let (mut expected, mut frames, mut all_plain) = (Vec::new(), 0, true);
    let mut used = 0;
    while let Ok(value) = rmpv::decode::read_value(&mut rest) {
        used = data.len() - rest.len();
        if value.is_nil() {
            continue;
        }
        frames += 1;
        match plain(&value).filter(|_| all_plain) {
            Some(records) => expected.extend(records),
            None => all_plain = false,
        }
        if ours.lost && used > ours.used {
            // The decoder gave up within this frame, of which it may have taken records or not.
            all_plain = false;
            break;
        }
    }
    let common = expected.len().min(ours.records.len());
    assert_eq!(ours.records[..common], expected[..common], "records as far as all frames are plain");
    if !ours.lost {
        // A frame that is rejected early is passed over as it comes, not when it is whole.
        let agrees = if ours.mid_frame { ours.used >= used } else { ours.used == used };
        assert!(agrees, "the last whole frame ends at {used}, not at {}", ours.used);
        assert!(ours.records.len() >= expected.len(), "{} records instead of {expected:?}", ours.records.len());
        // Of a frame that claims more bytes than one may have whole, entries are taken as they come.
        let begun = ours.mid_frame && ours.used > used;
        assert!(
            !all_plain || begun || ours.records.len() == expected.len(),
            "records beyond {expected:?}: {:?}",
            ours.records
        );
    }
    Compared { records: common, as_json: ours.as_json[..common].iter().filter(|is| **is).count(), frames }
}

struct Ours {
    records: Vec<Record>,
    /// Of each record, whether its fields are JSON already.
    as_json: Vec<bool>,
    /// Bytes done with.
    used: usize,
    mid_frame: bool,
    lost: bool,
}

fn decode(data: &[u8], as_json: bool) -> Ours {
    let budget = Budget::new(1 << 30);
    let mut batch = Batch::new(budget.empty_permit(), 0, Arc::default());
    batch.permit_mut().grow(64 << 20);
    let mut decoder = Decoder::new(Limits::default(), false);
    decoder.set_as_json(as_json);
    let (mut used, mut lost) = (0, false);
    loop {
        let (more, step) = decoder.decode(&data[used..], &mut batch, Timestamp(0));
        used += more;
        match step {
            Step::NeedMore => break,
            Step::NeedsMemory(need) => decoder.grant(need),
            Step::Full => panic!("64 MiB are full of {} bytes", data.len()),
            Step::FrameEnd => (),
            Step::Lost(_) => {
                lost = true;
                break;
            }
        }
    }
    // JSON mode has no place here.
    if decoder.is_json() {
        return Ours { records: Vec::new(), as_json: Vec::new(), used, mid_frame: false, lost: true };
    }
    let mut encoder = Encoder::new(Added::NONE);
    let mut line = Vec::new();
    let records = (0..batch.len()).map(|at| {
        line.clear();
        encoder.row(&batch, at, &mut line);
        let fields = serde_json::from_slice(&line).unwrap_or_else(|error| {
            panic!("an output line that is no JSON: {error}: {}", String::from_utf8_lossy(&line))
        });
        Record(batch.tag_of(at).to_string(), batch.row(at).time.0, fields)
    });
    let records = records.collect();
    let is_json = |field: &Field| matches!(field.form, Form::Json | Form::JsonStr);
    let as_json = (0..batch.len()).map(|at| !batch.fields(at).is_empty() && batch.fields(at).iter().all(is_json));
    Ours { records, as_json: as_json.collect(), used, mid_frame: decoder.is_mid_frame(), lost }
}

/// The records of a frame of the kind that every sender writes. `None`: another one.
fn plain(frame: &Value) -> Option<Vec<Record>> {
    let items = frame.as_array()?;
    let tag = items.first()?.as_str()?;
    let (records, options) = match (items.get(1)?, items.len()) {
        (Value::Array(entries), 2..=3) => {
            (entries.iter().map(|entry| record(tag, entry.as_array()?)).collect::<Option<_>>()?, items.get(2))
        }
        // The reserved byte is nil to rmpv, and the end of the blob to a decoder.
        (Value::Binary(blob), 2..=3) if blob.contains(&0xc1) => return None,
        (Value::Binary(blob), 2..=3) => {
            let (mut rest, mut records) = (&blob[..], Vec::new());
            while !rest.is_empty() {
                let entry = rmpv::decode::read_value(&mut rest).ok()?;
                records.push(record(tag, entry.as_array()?)?);
            }
            // What begins as gzip or zstd is taken for that; no entry does.
            (records, items.get(2))
        }
        (Value::Integer(_) | Value::Ext(..), 3..=4) => (vec![record(tag, &items[1..3])?], items.get(3)),
        _ => return None,
    };
    match options {
        None => Some(records),
        Some(Value::Map(options)) => {
            options.iter().all(|(key, _)| matches!(key.as_str(), Some("chunk" | "size"))).then_some(records)
        }
        Some(_) => None,
    }
}

fn record(tag: &str, entry: &[Value]) -> Option<Record> {
    let [time, fields] = entry else { return None };
    let nanos = match time {
        Value::Integer(seconds) => i64::from(u32::try_from(seconds.as_u64()?).ok()?) * 1_000_000_000,
        Value::Ext(0, bytes) => {
            let (seconds, nanos) = bytes.split_first_chunk::<4>()?;
            let nanos = u32::from_be_bytes(nanos.try_into().ok()?);
            if nanos >= 1_000_000_000 {
                return None;
            }
            i64::from(u32::from_be_bytes(*seconds)) * 1_000_000_000 + i64::from(nanos)
        }
        _ => return None,
    };
    // No time was set: that of receipt counts.
    if nanos < 1_000_000_000 || !fields.is_map() {
        return None;
    }
    // By way of text, as the decoder's: serde_json reads a double's shortest text one step off now and then.
    let fields = serde_json::from_str(&json(fields, 0)?.to_string()).expect("JSON that serde_json wrote");
    Some(Record(tag.to_owned(), nanos, fields))
}

fn json(value: &Value, depth: usize) -> Option<serde_json::Value> {
    if depth > DEPTH {
        return None;
    }
    Some(match value {
        Value::Nil => serde_json::Value::Null,
        Value::Boolean(is) => (*is).into(),
        Value::Integer(number) => match number.as_u64() {
            Some(number) => number.into(),
            None => number.as_i64()?.into(),
        },
        // Null if it is not finite.
        Value::F64(number) => (*number).into(),
        Value::String(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        Value::Binary(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Array(items) => items.iter().map(|item| json(item, depth + 1)).collect::<Option<Vec<_>>>()?.into(),
        Value::Map(pairs) => {
            let mut fields = serde_json::Map::new();
            for (key, value) in pairs {
                // Of a key that comes twice each reader keeps another one.
                if fields.insert(key.as_str()?.to_owned(), json(value, depth + 1)?).is_some() {
                    return None;
                }
            }
            fields.into()
        }
        // A single-precision number is written as its own shortest text, which is another double; and of two that are
        // equally short (452946.12 and .13) this library takes one, that the other.
        Value::F32(_) | Value::Ext(..) => return None,
    })
}
