//! A [`Request`]: the records of one write or POST, from one or several batches, with what is kept between its tries.
//!
//! A shipment may end up in several requests (it was larger than one, or it was halved), so each [`Part`] has its own
//! clones of the receipts; the last one settles.

use std::sync::Arc;

use bytes::Bytes;

use super::request_sum::Sum;
use crate::batch::{Batch, Receipts, Shipment};
use crate::budget::{Budget, Permit};
use crate::metrics::Tally;
use crate::record::Origin;
use crate::record_id::RecordId;

/// Some rows of one batch.
#[derive(Debug)]
pub struct Part {
    /// The records, shared.
    pub batch: Arc<Batch>,
    /// Which of them, in order: indexes of rows. Never empty.
    pub rows: Vec<u32>,
    /// Who waits.
    pub receipts: Receipts,
    /// They are in the disk log too.
    pub logged: bool,
}

impl Part {
    /// The rows of a shipment that are for this sink. `Err` with the receipts when there are none.
    pub fn of(shipment: Shipment) -> Result<Part, Receipts> {
        let wanted = |at: &u32| shipment.wants(*at as usize);
        // A batch holds fewer rows than bytes, and those fit a u32.
        let all = 0..shipment.batch.len() as u32;
        let rows: Vec<u32> = if shipment.wants_all() { all.collect() } else { all.filter(wanted).collect() };
        if rows.is_empty() {
            return Err(shipment.receipts);
        }
        Ok(Part { batch: shipment.batch, rows, receipts: shipment.receipts, logged: shipment.logged })
    }

    /// The bytes that the rows cost in memory, about: what requests are measured by before they are encoded.
    pub fn cost(&self) -> usize {
        let all = self.batch.len().max(1) as u64;
        (self.batch.cost() as u64 * self.rows.len() as u64 / all) as usize
    }

    /// The same part with other rows.
    pub(crate) fn with(&self, rows: Vec<u32>) -> Part {
        Part { batch: Arc::clone(&self.batch), rows, receipts: self.receipts.clone(), logged: self.logged }
    }

    /// Cuts off the rows from `at` on.
    fn split_off(&mut self, at: usize) -> Part {
        let rest = self.rows.split_off(at);
        self.with(rest)
    }
}

/// The times that Docker wrote beside the first and the last of a container's records, in nanoseconds. Where the first is the same
/// record the file is the same, up to the last one; a sum of each time would be 3.5 % of docker-http's instructions.
fn ends_of(part: &Part) -> Option<[&[u8]; 2]> {
    let batch = &*part.batch;
    let is_one_s = batch.origin.container.is_some() && batch.places().is_empty();
    let time = |row: &u32| Some(batch.bytes(batch.row(*row as usize).time_text)).filter(|time| !time.is_empty());
    if is_one_s { Some([time(part.rows.first()?)?, time(part.rows.last()?)?]) } else { None }
}

/// The ids of records on their way into a key.
///
/// A record is named by how far it lies behind the one before, in four bytes: all 16 bytes of each id through SHA-512, id by id,
/// were 4.4 % of docker-http. Zero stands before a whole id, so no two lists give the same bytes.
struct Names {
    hash: ring::digest::Context,
    block: [u8; 512],
    used: usize,
    last: Option<RecordId>,
}

impl Names {
    fn new() -> Names {
        Names { hash: ring::digest::Context::new(&ring::digest::SHA512), block: [0; 512], used: 0, last: None }
    }

    #[inline(always)]
    fn add(&mut self, id: RecordId) {
        let last = self.last.replace(id).filter(|last| last.prefix == id.prefix);
        let step = last.and_then(|last| u32::try_from(id.number.checked_sub(last.number)?).ok()).unwrap_or(0);
        self.put(step.to_be_bytes());
        if step == 0 {
            self.put(id.prefix.to_be_bytes());
            self.put(id.number.to_be_bytes());
        }
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        if self.used + N > self.block.len() {
            self.hash.update(&self.block[..self.used]);
            self.used = 0;
        }
        self.block[self.used..self.used + N].copy_from_slice(&bytes);
        self.used += N;
    }

    fn key(mut self, content: u32) -> u128 {
        self.put(content.to_be_bytes());
        self.hash.update(&self.block[..self.used]);
        let digest = self.hash.finish();
        digest.as_ref().iter().take(16).fold(0, |key, byte| key << 8 | u128::from(*byte))
    }
}

/// What is sent at once.
#[derive(Debug)]
pub struct Request {
    /// The records, in order. Never empty.
    pub parts: Vec<Part>,
    /// Names this request to a destination that can tell a repetition: the same for all its tries.
    pub key: u128,
    /// The key was given to earlier tries of the same records, and stays.
    pub(crate) keeps_key: bool,
    /// Which of the sink's requests it is, counted by tries.
    pub(crate) number: u64,
    /// It is as it was gathered: no half of another one, and no rest.
    pub(crate) is_first: bool,
    /// Tries that failed.
    pub tries: u32,
    /// Bytes of the body that a stream has taken already: the next try goes on from there.
    pub written: usize,
    /// Oddities met while encoding, by input; counted once, whatever the number of tries.
    pub(crate) tallies: Vec<(u16, Tally)>,
    /// Whether the oddities were counted already, by this request or the one that it was split from.
    pub(crate) tallied: bool,
    body: Option<Body>,
    /// Bytes of the body before compression: what the limit of a request counts.
    plain: usize,
}

/// An encoded body. Its memory is paid for while the request is under way, and the budget's again after that, unless a
/// connection is not done with it.
#[derive(Debug)]
struct Body {
    bytes: Bytes,
    permit: Permit,
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Ok(mut own) = std::mem::take(&mut self.bytes).try_into_mut() {
            // Else what is in it would be moved to where it is.
            own.clear();
            self.permit.budget().recycle_body(Vec::from(own));
        }
    }
}

impl Request {
    /// A request of these parts, of which there is at least one.
    pub fn new(parts: Vec<Part>, key: u128) -> Request {
        Request {
            parts,
            key,
            keeps_key: false,
            number: 0,
            is_first: false,
            tries: 0,
            written: 0,
            tallies: Vec::new(),
            tallied: false,
            body: None,
            plain: 0,
        }
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len()).sum()
    }

    /// Whether there is no record, which is never so for a request on its way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that the records cost in memory: a guess of what they are encoded.
    pub fn cost(&self) -> usize {
        self.parts.iter().map(Part::cost).sum()
    }

    /// All rows in order, with the index of their part.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &Batch, usize)> {
        self.parts
            .iter()
            .enumerate()
            .flat_map(|(at, part)| part.rows.iter().map(move |row| (at, &*part.batch, *row as usize)))
    }

    /// The encoded body of an earlier try.
    pub fn body(&self) -> Option<&Bytes> {
        self.body.as_ref().map(|body| &body.bytes)
    }

    /// Bytes of the body before compression; 0 while there is no body.
    pub fn plain(&self) -> usize {
        self.plain
    }

    /// Keeps the encoded body for further tries; `plain` is its size before compression. It is paid for from the
    /// budget of the records.
    pub fn keep_body(&mut self, body: Vec<u8>, plain: usize) {
        let mut permit = self.budget().empty_permit();
        permit.grow(body.capacity());
        self.plain = plain;
        self.body = Some(Body { bytes: Bytes::from(body), permit });
    }

    /// What pays for its records.
    pub fn budget(&self) -> &Arc<Budget> {
        self.parts.first().expect("a request has records").batch.permit().budget()
    }

    /// Gives it a key that follows from the ids of its records, so that it is the same after a restart too. To be called
    /// when it is known which records it holds, before its first try.
    ///
    /// Not where records came from a sender: their ids follow from the sender's chunk ids, and some senders make those of
    /// the content, so that two honest chunks may share one. There the key stays random.
    pub fn key_by_ids(&mut self) {
        let has_peer = |batch: &Batch| batch.origin.peer.is_some() || batch.places().iter().any(|it| it.peer.is_some());
        let is_file = |origin: &Origin| origin.file.is_some() || origin.container.is_some();
        let has_file = |batch: &Batch| is_file(&batch.origin) || batch.places().iter().any(|it| is_file(it));
        let from_here = |batch: &Batch, row: &u32| batch.origin_at(*row as usize).peer.is_none();
        let named = self.parts.iter().all(|part| {
            let all_from_here = || part.rows.iter().all(|row| from_here(&part.batch, row));
            !part.batch.ids.is_empty() && (!has_peer(&part.batch) || all_from_here())
        });
        if self.keeps_key || !named {
            return;
        }
        let mut names = Names::new();
        // A file that is truncated in place has the same offsets again, and so other records have the same ids.
        let mut content = Sum::default();
        for part in &self.parts {
            let (batch, mut has_file) = (&*part.batch, has_file(&part.batch));
            if let Some(ends) = ends_of(part) {
                has_file = false;
                ends.iter().for_each(|time| content.add(time));
            }
            for row in part.rows.iter().map(|row| *row as usize) {
                if has_file && is_file(batch.origin_at(row)) {
                    for field in batch.fields(row) {
                        content.add(batch.bytes(field.key));
                        content.add(batch.bytes(field.value));
                    }
                }
                names.add(batch.id_of(row));
            }
        }
        self.key = names.key(content.get());
    }

    /// Notes oddities met while rows of `input` were encoded, and empties the tally.
    pub fn note(&mut self, input: u16, tally: &mut Tally) {
        let seen = tally.oddities.iter().any(|count| *count > 0);
        if seen && !self.tallied {
            self.tallies.push((input, std::mem::take(tally)));
        } else if seen {
            *tally = Tally::default();
        }
    }

    /// Cuts off the records from number `at` on. The body, if there was one, is forgotten.
    pub fn split_off(&mut self, mut at: usize) -> Vec<Part> {
        self.body = None;
        for index in 0..self.parts.len() {
            let rows = self.parts[index].rows.len();
            if at < rows {
                let mut rest = Vec::with_capacity(self.parts.len() - index);
                let keep = if at > 0 {
                    rest.push(self.parts[index].split_off(at));
                    index + 1
                } else {
                    index
                };
                rest.extend(self.parts.drain(keep..));
                return rest;
            }
            at -= rows;
        }
        Vec::new()
    }

    /// Two requests of half the records each. Of one record: that one and nothing.
    pub fn halve(mut self, keys: (u128, u128)) -> (Request, Option<Request>) {
        let rest = self.split_off(self.len().div_ceil(2));
        let again = |parts, key, tallied| Request { tallied, ..Request::new(parts, key) };
        let second = (!rest.is_empty()).then(|| again(rest, keys.1, self.tallied));
        (again(self.parts, keys.0, self.tallied), second)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::batch::{Outcome, Receipt, RowHead, Waiter};
    use crate::budget::Budget;
    use crate::record::{Container, Field, Form, Stream, Timestamp};

    /// What became of a shipment, once it is known.
    #[derive(Clone, Default)]
    pub(crate) struct Seen(Arc<Mutex<Vec<Outcome>>>);

    impl Waiter for Seen {
        fn settled(&self, worst: Outcome) {
            self.0.lock().expect("not poisoned").push(worst);
        }
    }

    impl Seen {
        pub(crate) fn outcomes(&self) -> Vec<Outcome> {
            self.0.lock().expect("not poisoned").clone()
        }
    }

    /// A batch of records `{"n": text}`, each as (tag, text), at 2026-11-23T10:15:00Z and later by a second each.
    pub(crate) fn batch(budget: &Arc<Budget>, records: &[(&str, &str)]) -> Batch {
        let container =
            Container { id: "c0ffee".repeat(11)[..64].to_owned(), name: "web".to_owned(), ..Container::default() };
        let origin = Origin { container: Some(container), ..Origin::default() };
        let mut batch = Batch::new(budget.empty_permit(), 0, Arc::new(origin));
        for (at, (tag, text)) in records.iter().enumerate() {
            let tag = batch.tag_index(tag).expect("few tags");
            let mark = batch.fields_mark();
            let key = batch.push_bytes(b"n");
            let value = batch.push_bytes(text.as_bytes());
            batch.push_field(Field::new(key, Form::Text, value));
            let time = Timestamp(1_795_428_900_000_000_000 + at as i64 * 1_000_000_000);
            batch.push_row(mark, RowHead { stream: Stream::Stdout, ..RowHead::at(time, tag) });
        }
        batch
    }

    pub(crate) fn shipment(budget: &Arc<Budget>, records: &[(&str, &str)]) -> (Shipment, Seen) {
        let seen = Seen::default();
        let receipts = Receipts(vec![Receipt::new(Box::new(seen.clone()))]);
        (Shipment { batch: Arc::new(batch(budget, records)), receipts, tags: u64::MAX, logged: false }, seen)
    }

    pub(crate) fn request(budget: &Arc<Budget>, texts: &[&str]) -> Request {
        let records: Vec<(&str, &str)> = texts.iter().map(|text| ("t", *text)).collect();
        Request::new(vec![Part::of(shipment(budget, &records).0).expect("rows")], 1)
    }

    fn texts(request: &Request) -> Vec<String> {
        let text = |batch: &Batch, row: usize| {
            let field = batch.find(row, b"n").expect("a field n");
            String::from_utf8_lossy(batch.value(field).bytes).into_owned()
        };
        request.rows().map(|(_, batch, row)| text(batch, row)).collect()
    }

    #[test]
    fn only_the_rows_of_wanted_tags_are_sent() {
        let budget = Budget::new(1 << 20);
        let (mut shipped, _) = shipment(&budget, &[("a", "1"), ("b", "2"), ("a", "3")]);
        shipped.tags = 1;
        let part = Part::of(shipped).expect("rows");
        assert_eq!(part.rows, [0, 2]);
        let (mut none, _) = shipment(&budget, &[("a", "1")]);
        none.tags = 0;
        assert!(Part::of(none).is_err());
    }

    #[test]
    fn the_key_follows_from_the_ids_of_records_that_were_read_here() {
        let budget = Budget::new(1 << 20);
        let key = |first: u64, rows: Vec<u32>, peer: Option<&str>| {
            let mut batch = batch(&budget, &[("t", "1"), ("t", "2"), ("t", "3")]);
            batch.number_rows();
            batch.ids.push(crate::record_id::IdRun { from: 0, prefix: 7, first });
            batch.origin = Arc::new(Origin { peer: peer.map(str::to_owned), ..Origin::default() });
            let part = Part { batch: Arc::new(batch), rows, receipts: Receipts::default(), logged: false };
            let mut request = Request::new(vec![part], 1);
            request.key_by_ids();
            request.key
        };
        assert_eq!(key(5, vec![0, 1], None), key(5, vec![0, 1], None));
        // The same records, numbered from another place.
        assert_eq!(key(5, vec![1, 2], None), key(6, vec![0, 1], None));
        assert_ne!(key(5, vec![0, 1], None), key(5, vec![0, 2], None));
        assert_ne!(key(5, vec![0, 1], None), key(5, vec![0, 1, 2], None));
        assert_eq!(key(5, vec![0, 1], Some("10.0.0.5:1")), 1, "ids of senders may be shared by honest records");
        let of_file = |text: &str, time: &str, origin: Origin| {
            let mut batch = batch(&budget, &[("t", text)]);
            batch.number_rows();
            batch.ids.push(crate::record_id::IdRun { from: 0, prefix: 7, first: 0 });
            let time_text = batch.push_bytes(time.as_bytes());
            batch.row_mut(0).time_text = time_text;
            batch.origin = Arc::new(origin);
            let part = Part { batch: Arc::new(batch), rows: vec![0], receipts: Receipts::default(), logged: false };
            let mut request = Request::new(vec![part], 1);
            request.key_by_ids();
            request.key
        };
        let file = || Origin { file: Some("/x".into()), ..Origin::default() };
        assert_eq!(of_file("1", "", file()), of_file("1", "", file()));
        assert_ne!(of_file("1", "", file()), of_file("2", "", file()), "the first line after a truncation in place");
        let container = || Origin { container: Some(Container::default()), ..Origin::default() };
        let (one, later) = ("2026-11-24T10:00:00.000000001Z", "2026-11-24T10:00:00.000000002Z");
        assert_eq!(of_file("1", one, container()), of_file("1", one, container()));
        assert_ne!(
            of_file("1", one, container()),
            of_file("1", later, container()),
            "the same line after a truncation"
        );
        assert_ne!(of_file("1", "", container()), of_file("2", "", container()));
        let mut kept = request(&budget, &["1"]);
        kept.key_by_ids();
        assert_eq!(kept.key, 1, "no ids, no key of them");
    }

    #[test]
    fn the_key_names_each_record_wherever_it_lies() {
        let key = |ids: &[(u64, u64)]| {
            let mut names = Names::new();
            ids.iter().for_each(|(prefix, number)| names.add(RecordId { prefix: *prefix, number: *number }));
            names.key(0)
        };
        let run: Vec<(u64, u64)> = (1..=1000).map(|number| (7, number * 340)).collect();
        let changed = |at: usize, id: (u64, u64)| {
            let mut ids = run.clone();
            ids[at] = id;
            ids
        };
        let lists = [
            run.clone(),
            run[..999].to_vec(),
            changed(0, (7, 341)),
            changed(0, (8, 340)),
            changed(500, (7, run[500].1 + 1)),
            changed(500, (8, run[500].1)),
            changed(500, run[499]),
            changed(999, (7, u64::MAX)),
            changed(999, (7, 0)),
            // What a step and a whole id look like to each other.
            vec![(0, 1), (0, 2), (0, 3)],
            vec![(0, 1), (0, 1 + (1 << 32)), (0, 2)],
            vec![(0, 1), (0, 2), (0, 0)],
        ];
        for (at, one) in lists.iter().enumerate() {
            assert_eq!(key(one), key(one));
            assert!(lists[..at].iter().all(|other| key(other) != key(one)), "{at}");
        }
    }

    #[test]
    fn halving_keeps_order_and_ends_at_one_record() {
        let budget = Budget::new(1 << 20);
        let mut whole = request(&budget, &["1", "2", "3"]);
        whole.parts.extend(request(&budget, &["4", "5"]).parts);
        let (first, second) = whole.halve((2, 3));
        let second = second.expect("two halves");
        assert_eq!(
            (texts(&first), texts(&second)),
            (vec!["1".into(), "2".into(), "3".into()], vec!["4".into(), "5".into()])
        );
        let (one, more) = first.halve((4, 5));
        assert_eq!((one.len(), more.expect("one more").len()), (2, 1));
        let (single, none) = request(&budget, &["x"]).halve((6, 7));
        assert_eq!(single.len(), 1);
        assert!(none.is_none());
    }

    #[test]
    fn a_shipment_that_was_split_settles_once_with_the_worst_of_its_parts() {
        let budget = Budget::new(1 << 20);
        let (shipped, seen) = shipment(&budget, &[("t", "1"), ("t", "2"), ("t", "3")]);
        let mut request = Request::new(vec![Part::of(shipped).expect("rows")], 1);
        let rest = request.split_off(1);
        for part in request.parts {
            part.receipts.settle(Outcome::Rejected);
        }
        assert!(seen.outcomes().is_empty());
        for part in rest {
            part.receipts.settle(Outcome::Delivered);
        }
        assert_eq!(seen.outcomes(), [Outcome::Rejected]);
    }

    #[test]
    fn a_kept_body_is_paid_for_until_the_request_ends() {
        let budget = Budget::new(1 << 20);
        let mut request = request(&budget, &["1"]);
        let before = budget.used();
        request.keep_body(vec![0; 5000], 5000);
        assert_eq!(budget.used() - before, 5000);
        drop(request);
        assert_eq!(budget.used(), 0);
    }
}
