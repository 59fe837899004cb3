//! Codecs, side by side with the obvious loop on the same input.
//!
//! `docker_line`: lines of Docker's json-file driver, 377 bytes each with the line break, as a web service writes them:
//! `log` is a JSON object of nine fields (text, numbers, a boolean, one nested object), every value another one in
//! each line. Work: split lines, decode the Docker line, index the inner object, write one NDJSON line that has the inner
//! fields, `stream`, `time`, `container` and `tag`. 2,000 lines are about one batch of 750 KiB.
//!
//! Measured is the thread's CPU time, not the clock's: a shared machine takes the CPU away for a while, and CPU seconds
//! are what a shipper costs.
//!
//! CPU time a line, one core of a shared 2-core EPYC (Zen 4) virtual machine, plain x86-64 build, 2026-11-30. Only ratios travel.
//!
//! | `docker_line` | us a line | million a second |
//! |---|---|---|
//! | newline_scan | 0.011 | 93 |
//! | decode (copy into the buffer, split, template, unescape) | 0.17 | 5.8 |
//! | decode_index (and check and index the inner object) | 0.38 | 2.6 |
//! | members (`decode_index` in one pass, `codec/json/inner.rs`: as it is done where `parse = "json"` is the first step) | 0.39 | 2.5 |
//! | whole (`decode_index`, and encode) | 0.44 | 2.3 |
//! | log_as_text (decode, keep `log` escaped, encode) | 0.26 | 3.8 |
//! | serde_json_twice | 2.8 | 0.35 |
//!
//! So `whole` is 6.4 times the serde_json loop. One pass is no faster than two here, where the lines of a batch lie in the cache; what it brought
//! to the whole program is in ARCHITECTURE.md (fewer instructions, docker-file's "one pass over `log`").
//!
//! `plain_line`: whole 0.13 us, 7.4 million a second; `serde_json` 0.50 (3.7 times). `access_line`, the groups of a pattern: `one_way` 0.15 us, the regex
//! crate 1.44 (9.5 times).
//!
//! `tricks`, what files under `src/codec` do in another way than the obvious one, and `choices`, the crates that were chosen beside
//! others; how many times faster, on a busy machine, EPYC, once (2026-11-30):
//!
//! | ours | beside | times |
//! |---|---|---|
//! | `decode`: Docker's template | `decode_general`: the general parser, by a space after each colon | 4.2 |
//! | `unescape`: a block's escapes as one mask | from backslash to backslash, with nothing checked | 1.9 |
//! | `escape`: in blocks | serde_json | 1.5 |
//! | `float`: of three decimals as thousandths | ryu | 1.3 |
//! | `sum`: CRC-32C of lines of 550 bytes, put together first | field by field | 1.25 |
//! | memchr, lines of 377 bytes | `position` from line to line | 14 |
//! | simdutf8, short texts that are not all ASCII | std | 3.1 to 3.4 |
//! | crc32c | crc32fast, which has another polynomial | 0.45 to 1.0 |
//! | zlib-rs, 64 KiB at level 1 and 6 | miniz_oxide | 1.15 to 1.2, 1.8 |
//! | our JSON check, which notes the members too | serde_json's `RawValue`; sonic-rs, on SIMD (`LazyValue`) | 1.35 to 1.45; 1.3 |
//!
//! `compress_*`: bodies as the sinks compress them, beside the library alone with a state that is kept; figures are in ARCHITECTURE.md.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use longshore::batch::{Added, Batch};
use longshore::budget::Budget;
use longshore::codec::docker_json::{self, LineHead, LogForm};
use longshore::codec::lines::Lines;
use longshore::codec::msgpack::{self, write};
use longshore::codec::ndjson::Encoder;
use longshore::codec::{json, text};
use longshore::metrics::Tally;
use longshore::pipeline::one_way::{Found, OneWay};
use longshore::record::{Container, Form, Origin, Timestamp};
use longshore::sinks::Compression;
use longshore::sinks::request_sum::Sum;

mod cpu_time;

use cpu_time::CpuTime;

const LINES: usize = 2000;
const LINE_BYTES: usize = 377;

/// The Docker lines of the header.
fn docker_lines() -> Vec<u8> {
    let mut out = Vec::with_capacity(LINES * LINE_BYTES);
    for n in 0..LINES {
        let (level, path) = (["info", "warn", "debug", "error"][n % 4], ["items", "orders", "users"][n % 3]);
        let mut inner = format!(
            r#"{{"level":"{level}","ts":"2026-11-23T10:{:02}:{:02}.{:03}Z","msg":"request handled","method":"GET","path":"/api/v1/{path}/{n}","status":{},"ok":{},"took_ms":{}.{},"user":{{"id":{},"name":"user-{n}","note":""#,
            n / 60 % 60,
            n % 60,
            n % 1000,
            200 + n % 5,
            n % 7 != 0,
            n % 90,
            n % 10,
            10_000 + n,
        );
        let line = |inner: &str| {
            let escaped = inner.replace('"', "\\\"");
            format!(
                "{{\"log\":\"{escaped}\\\"}}}}\\n\",\"stream\":\"{}\",\"time\":\"2026-11-23T10:15:{:02}.{:09}Z\"}}\n",
                ["stdout", "stderr"][n % 2],
                n % 60,
                123_456_789 + n,
            )
        };
        // Filled up, so that all are of one length.
        while line(&inner).len() < LINE_BYTES {
            inner.push((b'a' + (inner.len() % 26) as u8) as char);
        }
        let line = line(&inner);
        assert_eq!(line.len(), LINE_BYTES);
        out.extend_from_slice(line.as_bytes());
    }
    out
}

fn origin() -> Arc<Origin> {
    let container = Container {
        id: "0123456789abcdef".repeat(4),
        name: "web-1".into(),
        image: "shop/web:1.27".into(),
        labels: vec![],
    };
    Arc::new(Origin { container: Some(container), file: None, peer: None })
}

/// Splits and decodes all lines.
fn decode(lines: &mut Lines, budget: &Arc<Budget>, origin: &Arc<Origin>, form: LogForm) -> Batch {
    let mut batch = Batch::new(budget.empty_permit(), 0, Arc::clone(origin));
    let tag = batch.tag_index("docker.web-1").expect("room for a tag");
    let head = LineHead { tag, pos: 0, now: Timestamp(0) };
    while let Some(line) = lines.next_line() {
        docker_json::decode(line.bytes, LineHead { pos: line.start as u32, ..head }, &mut batch, form);
    }
    batch
}

/// What the step `parse = "json"` does.
fn index(batch: &mut Batch) {
    for at in 0..batch.len() {
        let field = batch.fields(at)[0];
        assert_eq!(field.form, Form::Text);
        let mark = batch.fields_mark();
        json::push_members(batch, field.value, 128).expect("an object");
        batch.splice_fields(at, Some(0), mark);
    }
}

fn encode(encoder: &mut Encoder, batch: &Batch, out: &mut Vec<u8>) {
    out.clear();
    for at in 0..batch.len() {
        encoder.row(batch, at, out);
        out.push(b'\n');
    }
}

/// The obvious loop: two passes of `serde_json::Value`.
fn serde_loop(input: &[u8], container: &serde_json::Value, out: &mut Vec<u8>) {
    out.clear();
    for line in input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let serde_json::Value::Object(mut outer) = serde_json::from_slice(line).expect("valid") else {
            unreachable!("made so above")
        };
        let inner = outer["log"].as_str().expect("a text").to_owned();
        let mut record: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&inner).expect("valid");
        for key in ["stream", "time"] {
            record.insert(key.to_owned(), outer.remove(key).expect("made so above"));
        }
        record.insert("container".to_owned(), container.clone());
        record.insert("tag".to_owned(), "docker.web-1".into());
        serde_json::to_writer(&mut *out, &record).expect("to memory");
        out.push(b'\n');
    }
}

fn docker_line(c: &mut Criterion<CpuTime>) {
    let input = docker_lines();
    let origin = origin();
    let known = origin.container.as_ref().expect("made so above");
    let container = serde_json::json!({ "id": known.id, "name": known.name, "image": known.image });
    let budget = Budget::new(64 << 20);
    let mut encoder = Encoder::new(Added::ALL);
    let mut lines = Lines::new(1 << 20, 0);
    let mut out = Vec::new();
    let refill = |lines: &mut Lines| {
        lines.restart(0);
        lines.space(input.len()).copy_from_slice(&input);
        lines.filled(input.len());
    };

    // The same records come out of both, before either is timed.
    serde_loop(&input, &container, &mut out);
    let expected = out.clone();
    refill(&mut lines);
    let mut batch = decode(&mut lines, &budget, &origin, LogForm::Text);
    index(&mut batch);
    encode(&mut encoder, &batch, &mut out);
    for (ours, theirs) in out.split(|byte| *byte == b'\n').zip(expected.split(|byte| *byte == b'\n')) {
        let read = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).ok();
        assert_eq!(read(ours), read(theirs));
    }

    let plain = out.clone();
    refill(&mut lines);
    let batch = decode(&mut lines, &budget, &origin, LogForm::Members);
    encode(&mut encoder, &batch, &mut out);
    assert_eq!(out, plain, "one pass gives what two give");

    // A space after each colon, which the template does not take: the general parser does, and with the same records.
    let spaced =
        [("{\"log\":", "{\"log\": "), ("\",\"stream\":", "\",\"stream\": "), ("\",\"time\":", "\",\"time\": ")]
            .iter()
            .fold(String::from_utf8(input.clone()).expect("ASCII"), |text, (from, to)| text.replace(from, to));
    assert_eq!(spaced.len(), input.len() + 3 * LINES);
    let refill_spaced = |lines: &mut Lines| {
        lines.restart(0);
        lines.space(spaced.len()).copy_from_slice(spaced.as_bytes());
        lines.filled(spaced.len());
    };
    refill_spaced(&mut lines);
    let batch = decode(&mut lines, &budget, &origin, LogForm::Text);
    encode(&mut encoder, &batch, &mut out);
    let general = out.clone();
    refill(&mut lines);
    let batch = decode(&mut lines, &budget, &origin, LogForm::Text);
    encode(&mut encoder, &batch, &mut out);
    assert_eq!(out, general, "the general parser gives what the template gives");

    let mut group = c.benchmark_group("docker_line");
    group.throughput(Throughput::Elements(LINES as u64));
    group.bench_function("whole", |b| {
        b.iter(|| {
            refill(&mut lines);
            let mut batch = decode(&mut lines, &budget, &origin, LogForm::Text);
            index(&mut batch);
            encode(&mut encoder, &batch, &mut out);
            black_box(&out);
        });
    });
    group.bench_function("decode", |b| {
        b.iter(|| {
            refill(&mut lines);
            black_box(decode(&mut lines, &budget, &origin, LogForm::Text));
        });
    });
    group.bench_function("decode_general", |b| {
        b.iter(|| {
            refill_spaced(&mut lines);
            black_box(decode(&mut lines, &budget, &origin, LogForm::Text));
        });
    });
    group.bench_function("decode_index", |b| {
        b.iter(|| {
            refill(&mut lines);
            let mut batch = decode(&mut lines, &budget, &origin, LogForm::Text);
            index(&mut batch);
            black_box(batch);
        });
    });
    group.bench_function("members", |b| {
        b.iter(|| {
            refill(&mut lines);
            black_box(decode(&mut lines, &budget, &origin, LogForm::Members));
        });
    });
    group.bench_function("log_as_text", |b| {
        // No step looks into `log`: it is copied as it is, escapes and all.
        b.iter(|| {
            refill(&mut lines);
            let batch = decode(&mut lines, &budget, &origin, LogForm::Escaped);
            encode(&mut encoder, &batch, &mut out);
            black_box(&out);
        });
    });
    group.bench_function("newline_scan", |b| {
        b.iter(|| memchr::memchr_iter(b'\n', black_box(&input)).fold(0, |sum, at| sum ^ at));
    });
    group.bench_function("serde_json_twice", |b| b.iter(|| serde_loop(black_box(&input), &container, &mut out)));
    group.finish();
}

/// The obvious loop for plain lines.
fn serde_lines(input: &[u8], out: &mut Vec<u8>) {
    const END: &[u8] = b",\"time\":\"1970-01-01T00:00:00.000000000Z\",\"file\":\"/var/log/a.log\",\"tag\":\"files\"}\n";
    out.clear();
    for line in input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let text = std::str::from_utf8(line).expect("valid");
        out.extend_from_slice(b"{\"log\":");
        out.extend_from_slice(serde_json::to_string(text).expect("to memory").as_bytes());
        out.extend_from_slice(END);
    }
}

/// A plain line of 541 bytes to `{"log":...}`.
fn plain_line(c: &mut Criterion<CpuTime>) {
    let line = format!(
        "203.0.113.9 - - [23/Nov/2026:10:15:00 +0000] \"GET /a HTTP/1.1\" 200 \"{}\"\n",
        "agent/1.0 ".repeat(50)
    );
    let line = &line[line.len() - 541..];
    let input = line.repeat(LINES).into_bytes();
    let budget = Budget::new(64 << 20);
    let origin = Arc::new(Origin { file: Some("/var/log/a.log".into()), ..Origin::default() });
    let mut encoder = Encoder::new(Added::ALL);
    let mut lines = Lines::new(1 << 20, 0);
    let mut out = Vec::new();
    let mut whole = |out: &mut Vec<u8>| {
        lines.restart(0);
        lines.space(input.len()).copy_from_slice(&input);
        lines.filled(input.len());
        let mut batch = Batch::new(budget.empty_permit(), 0, Arc::clone(&origin));
        let tag = batch.tag_index("files").expect("room for a tag");
        while let Some(line) = lines.next_line() {
            text::push(line.bytes, LineHead { tag, pos: 0, now: Timestamp(0) }, &mut batch);
        }
        encode(&mut encoder, &batch, out);
    };

    // The same records come out of both, before either is timed.
    serde_lines(&input, &mut out);
    let expected = out.clone();
    whole(&mut out);
    assert_eq!(out, expected);

    let mut group = c.benchmark_group("plain_line");
    group.throughput(Throughput::Elements(LINES as u64));
    group.bench_function("whole", |b| {
        b.iter(|| {
            whole(&mut out);
            black_box(&out);
        });
    });
    group.bench_function("serde_json", |b| {
        b.iter(|| {
            serde_lines(black_box(&input), &mut out);
            black_box(&out);
        });
    });
    group.finish();
}

/// The groups of an access-log line of 541 bytes: the regex crate, and the walk of a pattern that never turns back.
fn access_line(c: &mut Criterion<CpuTime>) {
    let pattern = r#"^(?<ip>\S+) \S+ (?<user>\S+) \[(?<when>[^\]]+)\] "(?<method>\S+) (?<path>\S+) (?<proto>[^"]+)" (?<status>\d+) (?<size>\d+) "(?<referer>[^"]*)" "(?<agent>[^"]*)"$"#;
    let line = format!(
        "203.0.113.9 - user-17 [23/Nov/2026:10:15:00 +0000] \"GET /api/v1/orders?page=2&size=50&sort=name HTTP/1.1\" 200 \
         5123 \"https://shop.example.com/catalog/orders?utm_source=newsletter&utm_medium=email\" \"{}\"",
        "agent/1.0 ".repeat(50)
    );
    let line = format!("{}\"", &line[..540]);
    let regex = regex::bytes::Regex::new(pattern).expect("valid");
    let walk = OneWay::of(&regex).expect("the next byte decides");
    let (mut slots, mut locations) = (vec![0; walk.slots()], regex.capture_locations());
    assert_eq!(walk.find(line.as_bytes(), line.len(), &mut slots), Found::Yes);
    regex.captures_read(&mut locations, line.as_bytes()).expect("it matches");
    assert_eq!(locations.get(10), Some((slots[18] as usize, slots[19] as usize)));
    let mut group = c.benchmark_group("access_line");
    group.throughput(Throughput::Elements(1));
    group.bench_function("regex", |b| {
        b.iter(|| regex.captures_read(&mut locations, black_box(line.as_bytes())).is_some());
    });
    group.bench_function("one_way", |b| b.iter(|| walk.find(black_box(line.as_bytes()), line.len(), &mut slots)));
    group.finish();
}

/// Bodies of requests as they are compressed for a sink, against the library alone with a state that is kept: what the
/// way there costs, for a small and a large body.
fn compress(c: &mut Criterion<CpuTime>) {
    let origin = origin();
    let budget = Budget::new(64 << 20);
    let mut lines = Lines::new(1 << 20, 0);
    let input = docker_lines();
    lines.space(input.len()).copy_from_slice(&input);
    lines.filled(input.len());
    let batch = decode(&mut lines, &budget, &origin, LogForm::Members);
    let mut text = Vec::new();
    encode(&mut Encoder::new(Added::ALL), &batch, &mut text);
    for (name, size) in [("64k", 64 << 10), ("700k", 700 << 10)] {
        let plain = &text[..size];
        let mut group = c.benchmark_group(format!("compress_{name}"));
        group.throughput(Throughput::Bytes(size as u64)).sample_size(20);
        // Up to the library's default, which the file sink has.
        for level in 1..=6 {
            group.bench_function(format!("gzip{level}/sink"), |b| {
                b.iter(|| Compression::Gzip(level).apply(black_box(plain)).expect("compressed"));
            });
            let mut deflate = flate2::Compress::new(flate2::Compression::new(level), false);
            let mut out = Vec::with_capacity(size);
            group.bench_function(format!("gzip{level}/library"), |b| {
                b.iter(|| {
                    deflate.reset();
                    out.clear();
                    let mut crc = flate2::Crc::new();
                    crc.update(black_box(plain));
                    deflate.compress_vec(plain, &mut out, flate2::FlushCompress::Finish).expect("compressed");
                    (crc.sum(), out.len())
                });
            });
        }
        for level in [1, 2, 3] {
            group.bench_function(format!("zstd{level}/sink"), |b| {
                b.iter(|| Compression::Zstd(level).apply(black_box(plain)).expect("compressed"));
            });
            let mut zstd = zstd::bulk::Compressor::new(level).expect("a state");
            zstd.include_checksum(true).expect("known");
            let mut out = Vec::with_capacity(size);
            group.bench_function(format!("zstd{level}/library"), |b| {
                b.iter(|| {
                    out.clear();
                    zstd.compress_to_buffer(black_box(plain), &mut out).expect("compressed")
                });
            });
        }
        group.finish();
    }
}

/// The `log` of each Docker line, escaped as it stands there, and as text.
fn logs() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let line = |line: &[u8]| {
        let end = memchr::memmem::find(line, b"\\n\",\"stream").expect("a line of Docker's");
        let escaped = line[b"{\"log\":\"".len()..end].to_vec();
        let mut text = Vec::new();
        assert_eq!(json::unescape(&escaped, &mut text), Some(0));
        (escaped, text)
    };
    docker_lines().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(line).unzip()
}

/// The obvious loop of unescaping: from backslash to backslash.
fn unescape_by_jumps(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(b'\\', text) {
        out.extend_from_slice(&text[..at]);
        out.push(match text[at + 1] {
            b'n' => b'\n',
            b't' => b'\t',
            byte @ (b'"' | b'\\' | b'/') => byte,
            other => panic!("not made above: {other}"),
        });
        text = &text[at + 2..];
    }
    out.extend_from_slice(text);
}

/// What files under `src/codec` do in another way than the obvious one, alone.
fn tricks(c: &mut Criterion<CpuTime>) {
    let (escaped, texts) = logs();
    let (mut out, mut other) = (Vec::new(), Vec::new());
    for (escaped, text) in escaped.iter().zip(&texts) {
        other.clear();
        unescape_by_jumps(escaped, &mut other);
        assert_eq!(&other, text);
        out.clear();
        other.clear();
        json::escape(text, &mut out);
        serde_json::to_writer(&mut other, std::str::from_utf8(text).expect("ASCII")).expect("to memory");
        assert_eq!(&other[1..other.len() - 1], out);
    }
    let floats: Vec<f64> = (0..LINES).map(|n| (n * 7919) as f64 / 1000.0 + 0.001).collect();
    let mut packed = Vec::new();
    write::array(LINES, &mut packed);
    floats.iter().for_each(|number| write::float(*number, &mut packed));
    let by_thousandths = |out: &mut Vec<u8>| msgpack::write_json(&packed, packed.len(), out, &mut Tally::default());
    let by_ryu = |out: &mut Vec<u8>| {
        for (nth, number) in packed[3..].chunks(9).enumerate() {
            out.push(if nth == 0 { b'[' } else { b',' });
            let number = f64::from_be_bytes(number[1..].try_into().expect("8 bytes"));
            out.extend_from_slice(ryu::Buffer::new().format(number).as_bytes());
        }
        out.push(b']');
    };
    out.clear();
    other.clear();
    by_thousandths(&mut out);
    by_ryu(&mut other);
    assert_eq!(out, other);

    let mut group = c.benchmark_group("tricks");
    group.throughput(Throughput::Elements(LINES as u64));
    let mut each = |name: &str, of: &[Vec<u8>], work: &dyn Fn(&[u8], &mut Vec<u8>)| {
        let mut out = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                for text in of {
                    out.clear();
                    work(black_box(text), &mut out);
                    black_box(&out);
                }
            });
        });
    };
    each("unescape/blocks", &escaped, &|text, out| {
        json::unescape(text, out);
    });
    each("unescape/jumps", &escaped, &unescape_by_jumps);
    each("escape/blocks", &texts, &|text, out| {
        json::escape(text, out);
    });
    each("escape/serde_json", &texts, &|text, out| {
        let text = simdutf8::basic::from_utf8(text).expect("ASCII");
        serde_json::to_writer(out, text).expect("to memory");
    });
    // The key and the value of a plain line.
    let lines: Vec<Vec<u8>> = (0..LINES).map(|n| format!("{n:0550}").into_bytes()).collect();
    let by_field = |sum: u32, bytes: &[u8]| crc32c::crc32c_append(sum, bytes);
    let gathered = |lines: &[Vec<u8>]| {
        let mut sum = Sum::default();
        lines.iter().for_each(|line| {
            sum.add(b"log");
            sum.add(line);
        });
        sum.get()
    };
    let each_field = |lines: &[Vec<u8>]| lines.iter().fold(0, |sum, line| by_field(by_field(sum, b"log"), line));
    assert_eq!(gathered(&lines), each_field(&lines));
    let one = [Vec::new()];
    each("sum/gathered", &one, &|_, out| out.push(gathered(black_box(&lines)) as u8));
    each("sum/by_field", &one, &|_, out| out.push(each_field(black_box(&lines)) as u8));
    each("float/thousandths", &one, &|_, out| by_thousandths(out));
    each("float/ryu", &one, &|_, out| by_ryu(out));
    group.finish();
}

/// Crates that were chosen, beside others that do the same work.
fn choices(c: &mut Criterion<CpuTime>) {
    let (_, logs) = logs();
    let mut group = c.benchmark_group("choices");

    // Only texts that are not all ASCII are asked for.
    let texts: Vec<String> =
        (0..LINES).map(|n| format!("заказ {n} принят, café №{n}: {}", "shop/web ".repeat(n % 32))).collect();
    let broken = |text: &str| [text.as_bytes(), b"\xd0"].concat();
    for text in &texts {
        assert!(
            simdutf8::basic::from_utf8(text.as_bytes()) == Ok(text)
                && simdutf8::basic::from_utf8(&broken(text)).is_err()
        );
        assert!(std::str::from_utf8(text.as_bytes()) == Ok(text) && std::str::from_utf8(&broken(text)).is_err());
    }
    group.throughput(Throughput::Bytes(texts.iter().map(String::len).sum::<usize>() as u64));
    let all = |valid: fn(&[u8]) -> bool| texts.iter().all(|text| valid(black_box(text.as_bytes())));
    group.bench_function("utf8/simdutf8", |b| b.iter(|| all(|text| simdutf8::basic::from_utf8(text).is_ok())));
    group.bench_function("utf8/std", |b| b.iter(|| all(|text| std::str::from_utf8(text).is_ok())));

    // Two polynomials, so each has its own answer.
    assert_eq!((crc32c::crc32c(b"123456789"), crc32fast::hash(b"123456789")), (0xe306_9283, 0xcbf4_3926));
    let frame = &docker_lines()[..64 << 10];
    let by_position = |text: &[u8]| {
        let next = |at: usize| text[at..].iter().position(|byte| *byte == b'\n').map(|to| at + to + 1);
        std::iter::successors(next(0), |at| next(*at)).count()
    };
    assert_eq!(memchr::memchr_iter(b'\n', frame).count(), by_position(frame));
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("newlines/memchr", |b| b.iter(|| memchr::memchr_iter(b'\n', black_box(frame)).count()));
    group.bench_function("newlines/position", |b| b.iter(|| by_position(black_box(frame))));
    group.bench_function("crc/crc32c", |b| b.iter(|| crc32c::crc32c(black_box(frame))));
    group.bench_function("crc/crc32fast", |b| b.iter(|| crc32fast::hash(black_box(frame))));

    for level in [1, 6] {
        let zlib_rs = |out: &mut Vec<u8>| {
            let mut deflate = flate2::Compress::new(flate2::Compression::new(level.into()), false);
            out.clear();
            deflate.compress_vec(frame, out, flate2::FlushCompress::Finish).expect("compressed");
        };
        let mut out = Vec::with_capacity(frame.len());
        zlib_rs(&mut out);
        for made in [&out, &miniz_oxide::deflate::compress_to_vec(frame, level)] {
            assert_eq!(miniz_oxide::inflate::decompress_to_vec(made).expect("deflate"), frame);
        }
        group.bench_function(format!("deflate{level}/zlib_rs"), |b| {
            b.iter(|| {
                zlib_rs(&mut out);
                black_box(&out);
            });
        });
        group.bench_function(format!("deflate{level}/miniz_oxide"), |b| {
            b.iter(|| miniz_oxide::deflate::compress_to_vec(black_box(frame), level));
        });
    }

    // Ours notes where the members are as well.
    let mut batch = Batch::new(Budget::new(64 << 20).empty_permit(), 0, origin());
    let spans: Vec<_> = logs.iter().map(|text| batch.push_bytes(text)).collect();
    let cut: Vec<_> = logs.iter().map(|text| batch.push_bytes(&text[..text.len() - 1])).collect();
    let ours = |batch: &mut Batch, span| {
        let mark = batch.fields_mark();
        let taken = json::push_members(batch, span, 128).is_ok();
        batch.rewind_fields(mark);
        taken
    };
    let theirs = |text: &[u8]| serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok();
    let sonic = |text: &[u8]| sonic_rs::from_slice::<sonic_rs::LazyValue<'_>>(text).is_ok();
    for ((span, cut), text) in spans.iter().zip(&cut).zip(&logs) {
        assert!(ours(&mut batch, *span) && theirs(text) && sonic(text));
        let cut_off = &text[..text.len() - 1];
        assert!(!ours(&mut batch, *cut) && !theirs(cut_off) && !sonic(cut_off));
    }
    group.throughput(Throughput::Elements(LINES as u64));
    group.bench_function("json/ours", |b| b.iter(|| spans.iter().all(|span| ours(&mut batch, black_box(*span)))));
    group.bench_function("json/raw_value", |b| b.iter(|| logs.iter().all(|text| theirs(black_box(text)))));
    group.bench_function("json/sonic_rs", |b| b.iter(|| logs.iter().all(|text| sonic(black_box(text)))));
    group.finish();
}

criterion_group! {
    name = lines;
    config = Criterion::default().with_measurement(CpuTime);
    targets = docker_line, plain_line, access_line, compress, tricks, choices
}
criterion_main!(lines);
