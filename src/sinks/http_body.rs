//! Bodies of the `http` sink: rows to NDJSON or a JSON array, then compressed.

use std::cell::RefCell;
use std::io::{self, Write};

use zstd::bulk::Compressor;

use super::request::{Part, Request};
use crate::batch::Batch;
use crate::codec::ndjson::Encoder;

/// How records are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// One JSON array of objects.
    JsonArray,
}

impl Format {
    /// The `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Ndjson => "application/x-ndjson",
            Format::JsonArray => "application/json",
        }
    }
}

/// How a body is compressed, and how hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, 1 to 9.
    Gzip(u32),
    /// Zstandard, 1 to 19.
    Zstd(i32),
}

impl Compression {
    /// The `Content-Encoding`, where there is one.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Compression::None => None,
            Compression::Gzip(_) => Some("gzip"),
            Compression::Zstd(_) => Some("zstd"),
        }
    }

    /// One complete gzip member or zstd frame of `plain`.
    pub fn apply(self, plain: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Compression::None => Ok(plain.to_vec()),
            Compression::Gzip(level) => {
                let out = Vec::with_capacity(plain.len() / 4);
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(level));
                encoder.write_all(plain)?;
                encoder.finish()
            }
            Compression::Zstd(level) => zstd_frame(level, plain),
        }
    }
}

/// Levels whose state a thread keeps for its next body: some 2 MiB at most. Those above take tens of megabytes.
const KEPT_LEVEL_MAX: i32 = 3;

thread_local! {
    /// Made anew for each body it costs a quarter of what a body of 64 KB does.
    static ZSTD: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
}

/// A frame with the size and a checksum in it, so that a damaged one is found out.
fn zstd_frame(level: i32, plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = match ZSTD.take() {
        Some((of, compressor)) if of == level => compressor,
        _ => {
            let mut compressor = Compressor::new(level)?;
            compressor.include_checksum(true)?;
            compressor
        }
    };
    let mut frame = compressor.compress(plain)?;
    frame.shrink_to_fit();
    if level <= KEPT_LEVEL_MAX {
        ZSTD.set(Some((level, compressor)));
    }
    Ok(frame)
}

/// Bytes of most rows, at most.
const ROW: usize = 64 << 10;

/// Encodes the rows of a request, up to `bytes_max` before compression, at least one. Returns the body and the records
/// that did not fit, which the request does not hold any more.
pub fn encode(request: &mut Request, format: Format, encoder: &mut Encoder, bytes_max: usize) -> (Vec<u8>, Vec<Part>) {
    // What is encoded may be somewhat more than it costs, and the row that is one too many is in it first: to grow for that took a
    // copy of the whole.
    let cost = request.cost();
    let room = (cost + cost / 4).min(bytes_max.saturating_add(ROW)).saturating_add(2);
    let mut body = request.budget().take_body(room);
    if format == Format::JsonArray {
        body.push(b'[');
    }
    let mut rows = 0;
    let mut full = false;
    let mut tallies = Vec::new();
    for part in &request.parts {
        for row in &part.rows {
            let before = body.len();
            if format == Format::JsonArray && rows > 0 {
                body.push(b',');
            }
            encoder.row(&part.batch, *row as usize, &mut body);
            if format == Format::Ndjson {
                body.push(b'\n');
            }
            if body.len() > bytes_max && rows > 0 {
                body.truncate(before);
                uncount(encoder, &part.batch, *row as usize, &mut body);
                full = true;
                break;
            }
            rows += 1;
        }
        tallies.push((part.batch.input, std::mem::take(&mut encoder.tally)));
        if full {
            break;
        }
    }
    for (input, mut tally) in tallies {
        request.note(input, &mut tally);
    }
    if format == Format::JsonArray {
        body.push(b']');
    }
    let rest = if full { request.split_off(rows) } else { Vec::new() };
    request.key_by_ids();
    (body, rest)
}

/// Takes the oddities of one row out of the tally again: it is encoded once more later.
fn uncount(encoder: &mut Encoder, batch: &Batch, row: usize, body: &mut Vec<u8>) {
    if encoder.tally.oddities.iter().all(|count| *count == 0) {
        return;
    }
    let mut all = std::mem::take(&mut encoder.tally);
    let len = body.len();
    encoder.row(batch, row, body);
    body.truncate(len);
    for (all, one) in all.oddities.iter_mut().zip(encoder.tally.oddities) {
        *all = all.saturating_sub(one);
    }
    encoder.tally = all;
}

/// Encodes, compresses and keeps the body in the request. Returns what did not fit.
pub fn prepare(
    request: &mut Request,
    format: Format,
    compression: Compression,
    encoder: &mut Encoder,
    bytes_max: usize,
) -> Vec<Part> {
    let (plain, rest) = encode(request, format, encoder, bytes_max);
    let plain_bytes = plain.len();
    let body = match compression {
        Compression::None => plain,
        _ => {
            // Writing to memory fails only when the compressor was set up wrongly, which the settings rule out.
            let body = compression.apply(&plain).expect("compressing into memory does not fail");
            request.budget().recycle_body(plain);
            body
        }
    };
    request.keep_body(body, plain_bytes);
    rest
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::batch::Added;
    use crate::budget::Budget;
    use crate::sinks::request::tests::request;

    const NOTHING: Added = Added::NONE;

    fn text(request: &Request) -> String {
        String::from_utf8(request.body().expect("a body").to_vec()).expect("text")
    }

    #[test]
    fn both_forms_hold_every_record() {
        let budget = Budget::new(1 << 20);
        let mut encoder = Encoder::new(NOTHING);
        let mut r = request(&budget, &["1", "2"]);
        prepare(&mut r, Format::Ndjson, Compression::None, &mut encoder, 1 << 20);
        assert_eq!(text(&r), "{\"n\":\"1\"}\n{\"n\":\"2\"}\n");
        let mut r = request(&budget, &["1", "2"]);
        prepare(&mut r, Format::JsonArray, Compression::None, &mut encoder, 1 << 20);
        assert_eq!(text(&r), "[{\"n\":\"1\"},{\"n\":\"2\"}]");
    }

    #[test]
    fn a_body_never_passes_its_size_but_for_a_single_record() {
        let budget = Budget::new(1 << 20);
        let mut encoder = Encoder::new(NOTHING);
        for format in [Format::Ndjson, Format::JsonArray] {
            let mut r = request(&budget, &["1", "2", "3"]);
            let rest = prepare(&mut r, format, Compression::None, &mut encoder, 22);
            assert!(r.body().expect("a body").len() <= 22);
            assert_eq!((r.len(), rest[0].rows.as_slice()), (2, &[2][..]));
            let large = "x".repeat(100);
            let mut r = request(&budget, &[&large, "2"]);
            let rest = prepare(&mut r, format, Compression::None, &mut encoder, 22);
            assert_eq!((r.len(), rest.len()), (1, 1));
        }
    }

    #[test]
    fn oddities_of_a_record_that_did_not_fit_are_counted_once() {
        let budget = Budget::new(1 << 20);
        let mut encoder = Encoder::new(NOTHING);
        let mut batch = crate::sinks::request::tests::batch(&budget, &[("t", "1"), ("t", "2"), ("t", "3")]);
        for row in 0..3 {
            let value = batch.push_bytes(b"\xff");
            batch.fields_mut(row)[0].value = value;
        }
        let receipts = crate::batch::Receipts::default();
        let mut rest = vec![Part { batch: std::sync::Arc::new(batch), rows: vec![0, 1, 2], receipts, logged: false }];
        let mut counted = 0;
        while !rest.is_empty() {
            let mut r = Request::new(std::mem::take(&mut rest), 1);
            rest = prepare(&mut r, Format::Ndjson, Compression::None, &mut encoder, 24);
            counted += r.tallies.iter().flat_map(|(_, tally)| tally.oddities).sum::<u32>();
        }
        assert_eq!(counted, 3);
    }

    #[test]
    fn the_memory_of_a_body_is_that_of_the_next_one_once_nobody_sends_from_it() {
        let budget = Budget::new(64 << 20);
        let mut encoder = Encoder::new(NOTHING);
        let large = ["x".repeat(300 << 10), "y".repeat(300 << 10)];
        let mut body = |text: &str, compression| {
            let mut r = request(&budget, &[text]);
            assert!(prepare(&mut r, Format::Ndjson, compression, &mut encoder, 1 << 20).is_empty());
            r
        };
        let first = body(&large[0], Compression::None);
        let at = first.body().expect("a body").as_ptr();
        assert!(budget.used() >= 300 << 10, "it is paid for");
        drop(first);
        assert_eq!(budget.used(), 0);
        let second = body(&large[1], Compression::None);
        assert_eq!(second.body().expect("a body").as_ptr(), at);
        assert!(text(&second) == format!("{{\"n\":\"{}\"}}\n", large[1]), "nothing of the one before");
        // A connection is not done with it.
        let sending = second.body().cloned().expect("a body");
        drop(second);
        let third = body(&large[0], Compression::None);
        assert_ne!(third.body().expect("a body").as_ptr(), at);
        assert!(sending.ends_with(b"yyy\"}\n"), "it is not written over");
        drop(third);
        // A small body takes no large one, and what was compressed is free at once.
        let small = body("z", Compression::None);
        assert!(budget.used() < 1 << 10);
        drop(small);
        let zipped = body(&large[0], Compression::Zstd(1));
        assert!(budget.used() < 100 << 10);
        drop(zipped);
    }

    #[test]
    fn compressed_bodies_come_back_as_they_were() {
        let plain = b"longshore ".repeat(1000);
        let gz = Compression::Gzip(6).apply(&plain).expect("gzip");
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(&gz[..]).read_to_end(&mut out).expect("gzip");
        assert!(out == plain && gz.len() < 500);
        // With a state that is kept, of another level, and made for this one.
        for level in [3, 3, 1, 19] {
            for plain in [&plain[..], b""] {
                let mut zst = Compression::Zstd(level).apply(plain).expect("zstd");
                assert_eq!(zstd::stream::decode_all(&zst[..]).expect("zstd"), plain);
                assert!(zst.len() < 500);
                let last = zst.len() - 1;
                zst[last] ^= 1;
                assert!(zstd::stream::decode_all(&zst[..]).is_err(), "its checksum is wrong");
            }
        }
    }
}
