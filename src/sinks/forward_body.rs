//! Bodies of the `forward` sink: the rows of a request as one frame for each tag, all written at once.

use super::http_body::Compression;
use super::request::{Part, Request};
use crate::batch::TAGS_MAX;
use crate::codec::forward::encode::{Encoder, Mode, Options, chunk_id, frame, frames};
use crate::record::{Tag, Timestamp};

/// How frames are written.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Whether each frame asks for an ack.
    pub acks: bool,
    /// How entries are compressed.
    pub compression: Compression,
    /// [`Mode::Packed`] or [`Mode::PackedText`].
    pub mode: Mode,
}

/// The entries of one tag.
struct Group {
    tag: Tag,
    entries: Vec<u8>,
    count: usize,
}

/// Encodes, compresses and keeps the frames in the request: records of up to `bytes_max` before compression, at least
/// one. Returns the records that did not fit.
pub fn prepare(request: &mut Request, shape: Shape, encoder: &mut Encoder, bytes_max: usize) -> Vec<Part> {
    let (groups, rest) = group(request, encoder, bytes_max);
    const HEADS: usize = 128;
    let room = groups.iter().map(|group| group.entries.len() + group.tag.as_str().len() + HEADS).sum();
    let mut body = if shape.compression == Compression::None { request.budget().take_body(room) } else { Vec::new() };
    let mut plain = 0;
    for group in groups {
        plain += group.entries.len();
        let id = shape.acks.then(|| chunk_id(request.key, group.tag.as_str()));
        let options = Options { chunk: id.as_deref(), compressed: shape.compression.name() };
        let entries = match shape.compression {
            Compression::None => group.entries,
            // Writing to memory fails only when the compressor was set up wrongly, which the settings rule out.
            zip => zip.apply(&group.entries).expect("compressing into memory does not fail"),
        };
        body.reserve(entries.len() + group.tag.as_str().len() + HEADS);
        frame(shape.mode, group.tag.as_str(), &entries, group.count, options, &mut body);
    }
    request.keep_body(body, plain);
    rest
}

fn group(request: &mut Request, encoder: &mut Encoder, bytes_max: usize) -> (Vec<Group>, Vec<Part>) {
    let now = Timestamp::now();
    let mut groups: Vec<Group> = Vec::new();
    let (mut rows, mut bytes, mut full) = (0, 0, false);
    let mut tallies = Vec::new();
    for part in &request.parts {
        // The group of each of the batch's tags.
        let mut known = [None; TAGS_MAX];
        for row in &part.rows {
            let at = *row as usize;
            let tag = usize::from(part.batch.row(at).tag);
            let group = *known[tag].get_or_insert_with(|| {
                let tag = part.batch.tag_of(at);
                groups.iter().position(|group| group.tag == *tag).unwrap_or_else(|| {
                    groups.push(Group { tag: tag.clone(), entries: Vec::new(), count: 0 });
                    groups.len() - 1
                })
            });
            let group = &mut groups[group];
            let before = group.entries.len();
            encoder.row(&part.batch, at, now, &mut group.entries);
            bytes += group.entries.len() - before;
            if bytes > bytes_max && rows > 0 {
                full = true;
                group.entries.truncate(before);
                uncount(encoder, part, at, now);
                break;
            }
            group.count += 1;
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
    groups.retain(|group| group.count > 0);
    let rest = if full { request.split_off(rows) } else { Vec::new() };
    request.key_by_ids();
    (groups, rest)
}

/// Takes the oddities of one row out of the tally again: it is encoded once more later.
fn uncount(encoder: &mut Encoder, part: &Part, at: usize, now: Timestamp) {
    if encoder.tally.oddities.iter().all(|count| *count == 0) {
        return;
    }
    let mut all = std::mem::take(&mut encoder.tally);
    encoder.row(&part.batch, at, now, &mut Vec::new());
    for (all, one) in all.oddities.iter_mut().zip(encoder.tally.oddities) {
        *all = all.saturating_sub(one);
    }
    encoder.tally = all;
}

/// The chunk ids that a body's frames wait for, in their order.
pub fn chunks(body: &[u8]) -> Vec<Vec<u8>> {
    frames(body).map(|(_, _, chunk)| chunk.to_vec()).collect()
}

/// Which frame of the body each record of the request is in. Nothing where there is only one frame.
pub fn frame_of_records(request: &Request, body: &[u8]) -> Vec<usize> {
    let tags: Vec<&[u8]> = frames(body).map(|(tag, _, _)| tag).collect();
    if tags.len() < 2 {
        return Vec::new();
    }
    let of = |tag: &Tag| tags.iter().position(|known| *known == tag.as_str().as_bytes()).unwrap_or(0);
    request.rows().map(|(_, batch, row)| of(batch.tag_of(row))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::batch::{Added, Batch};
    use crate::budget::Budget;
    use crate::codec::forward::encode::TimeForm;
    use crate::codec::forward::{Decoder, Limits, Step};
    use crate::sinks::request::tests::{batch, shipment};

    const NOTHING: Added = Added::NONE;
    const PLAIN: Shape = Shape { acks: true, compression: Compression::None, mode: Mode::Packed };

    /// The records of a body as our own decoder reads them: tag and `n`.
    fn read(body: &[u8]) -> Vec<(String, String)> {
        let budget = Budget::new(64 << 20);
        let mut batch = Batch::new(budget.try_acquire(1 << 20).expect("free"), 0, Arc::default());
        let (mut decoder, mut at) = (Decoder::new(Limits::default(), false), 0);
        loop {
            let (used, step) = decoder.decode(&body[at..], &mut batch, Timestamp(0));
            at += used;
            match step {
                Step::FrameEnd => (),
                Step::NeedsMemory(need) => decoder.grant(need),
                Step::NeedMore if at == body.len() => break,
                other => panic!("{other:?}"),
            }
        }
        let text = |at| String::from_utf8_lossy(batch.bytes(batch.find(at, b"n").expect("n").value)).into_owned();
        (0..batch.len()).map(|at| (batch.tag_of(at).to_string(), text(at))).collect()
    }

    fn requests(shape: Shape, records: &[(&str, &str)], bytes_max: usize) -> Vec<Request> {
        let budget = Budget::new(64 << 20);
        let mut encoder = Encoder::new(NOTHING, TimeForm::Event);
        let mut rest = vec![Part::of(shipment(&budget, records).0).expect("rows")];
        let mut done = Vec::new();
        while !rest.is_empty() {
            let mut request = Request::new(std::mem::take(&mut rest), 7 + done.len() as u128);
            rest = prepare(&mut request, shape, &mut encoder, bytes_max);
            done.push(request);
        }
        done
    }

    #[test]
    fn each_tag_is_a_frame_and_its_records_keep_their_order() {
        let records = [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")];
        for compression in [Compression::None, Compression::Gzip(6), Compression::Zstd(3)] {
            let request = requests(Shape { compression, ..PLAIN }, &records, 1 << 20).remove(0);
            let body = request.body().expect("a body");
            let expected: Vec<_> = [("a", "1"), ("a", "3"), ("b", "2"), ("b", "4")]
                .iter()
                .map(|(tag, n)| ((*tag).to_owned(), (*n).to_owned()))
                .collect();
            assert_eq!(read(body), expected);
            assert_eq!(chunks(body), [chunk_id(7, "a").into_bytes(), chunk_id(7, "b").into_bytes()]);
            assert_eq!(frame_of_records(&request, body), [0, 1, 0, 1]);
        }
    }

    #[test]
    fn what_does_not_fit_comes_in_the_next_request() {
        let records = [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4"), ("c", "5")];
        // An entry of these is 16 bytes.
        let all = requests(PLAIN, &records, 33);
        assert_eq!(all.iter().map(Request::len).collect::<Vec<_>>(), [2, 2, 1]);
        let read: Vec<_> = all.iter().flat_map(|request| read(request.body().expect("a body"))).collect();
        assert_eq!(read.iter().map(|(_, n)| n.as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
        assert_eq!(requests(PLAIN, &records, 1).len(), 5);
    }

    #[test]
    fn without_acks_no_frame_names_a_chunk() {
        let request = requests(Shape { acks: false, ..PLAIN }, &[("a", "1")], 1 << 20).remove(0);
        let body = request.body().expect("a body");
        assert!(!body.windows(5).any(|part| part == b"chunk"));
        assert!(chunks(body).is_empty());
    }

    #[test]
    fn oddities_of_a_record_that_did_not_fit_are_counted_once() {
        let budget = Budget::new(1 << 20);
        let mut odd = batch(&budget, &[("t", "1"), ("t", "2"), ("t", "3")]);
        for row in 0..3 {
            let value = odd.push_bytes(b"1e999");
            odd.fields_mut(row)[0].value = value;
            odd.fields_mut(row)[0].form = crate::record::Form::Json;
        }
        let receipts = crate::batch::Receipts::default();
        let mut rest = vec![Part { batch: Arc::new(odd), rows: vec![0, 1, 2], receipts, logged: false }];
        let mut encoder = Encoder::new(NOTHING, TimeForm::Event);
        let mut counted = 0;
        while !rest.is_empty() {
            let mut request = Request::new(std::mem::take(&mut rest), 1);
            rest = prepare(&mut request, PLAIN, &mut encoder, 20);
            counted += request.tallies.iter().flat_map(|(_, tally)| tally.oddities).sum::<u32>();
        }
        assert_eq!(counted, 3);
    }
}
