//! Acks of the forward protocol as a sender reads them: `{"ack": chunk id}`, one for each chunk that it waits for.
//!
//! The bytes come from the other side of a connection, in any pieces: an ack in several reads, several acks in one, or
//! something else altogether. Matching is strict: an ack belongs to one frame with that chunk id which still waits, and
//! whatever else comes is [`Unasked`]. An id that several frames have is waited for as often; `str` and `bin` of the
//! same bytes are the same id; other keys beside `ack` mean nothing.
//!
//! Limits: an ack of [`ANSWER_MAX`] bytes, known from its heads before the bytes are there; a caller that reads n bytes
//! at a time holds n + [`ANSWER_MAX`] + 8 of them at most. Each byte is looked at a bounded number of times.

use crate::codec::msgpack::{self, Skip};

/// Bytes of one ack, at most.
pub const ANSWER_MAX: usize = 4 << 10;

/// Something came that is no ack of a chunk that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unasked;

/// What the other side of a connection says, as it arrives.
#[derive(Debug, Default)]
pub struct Answers {
    bytes: Vec<u8>,
    /// The end of the ack at hand is looked for: the scan, and how far it is.
    scan: Option<(Skip, usize)>,
    /// No frame before this one waits any more.
    first: usize,
}

impl Answers {
    /// Where what is read goes, behind what is there.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What is there and belongs to no ack yet; after [`Unasked`], that.
    pub fn rest(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the acks that are whole, and marks in `acked` the chunks that they are for. The chunks are the same for
    /// the whole life of this value.
    ///
    /// # Errors
    /// Nothing after it can be told apart; the acks before it are marked.
    pub fn settle(&mut self, chunks: &[Vec<u8>], acked: &mut [bool]) -> Result<(), Unasked> {
        let mut from = 0;
        let settled = loop {
            match self.next(from) {
                Ok(None) => break Ok(()),
                Ok(Some(end)) => match chunk_id(&self.bytes[from..end]) {
                    Some(id) if mark(id, chunks, acked, &mut self.first) => from = end,
                    _ => break Err(Unasked),
                },
                Err(Unasked) => break Err(Unasked),
            }
        };
        self.bytes.drain(..from);
        settled
    }

    /// The end of the ack that begins at `from`, if it is there.
    fn next(&mut self, from: usize) -> Result<Option<usize>, Unasked> {
        let rest = &self.bytes[from..];
        if rest.is_empty() {
            return Ok(None);
        }
        let (skip, pos) = self.scan.get_or_insert((Skip::values(1), 0));
        *pos += skip.advance(&rest[*pos..]).map_err(|_| Unasked)?;
        if (*pos as u64).saturating_add(skip.owed()) > ANSWER_MAX as u64 {
            return Err(Unasked);
        }
        if !skip.is_done() {
            return Ok(None);
        }
        let end = from + *pos;
        self.scan = None;
        Ok(Some(end))
    }
}

/// The chunk id of a whole ack.
fn chunk_id(ack: &[u8]) -> Option<&[u8]> {
    match msgpack::get(ack, b"ack").and_then(msgpack::peek) {
        Some(msgpack::Peek::Bytes(id)) => Some(id),
        _ => None,
    }
}

/// Marks the first chunk of that id that waits, if there is one. `first` is a place before which none waits: acks come in
/// the order of the frames, so the search mostly ends where it begins.
fn mark(id: &[u8], chunks: &[Vec<u8>], acked: &mut [bool], first: &mut usize) -> bool {
    *first += acked.iter().skip(*first).take_while(|acked| **acked).count();
    let mut waiting = chunks.iter().zip(acked.iter_mut()).skip(*first).filter(|(_, acked)| !**acked);
    match waiting.find(|(chunk, _)| chunk.as_slice() == id) {
        Some((_, acked)) => {
            *acked = true;
            true
        }
        None => false,
    }
}

/// One run of the fuzzer: any bytes after the ids that are waited for (`pieces, count, {length, id}...`), in pieces,
/// against the same bytes at once and against a reader that looks at all of it each time.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    let Some(([piece, count], mut answer)) = data.split_first_chunk() else { return };
    let mut chunks = Vec::new();
    for _ in 0..count % 8 {
        let Some((len, rest)) = answer.split_first() else { break };
        let (id, rest) = rest.split_at(rest.len().min(usize::from(len % 32)));
        chunks.push(id.to_vec());
        answer = rest;
    }
    let run = |piece: usize| {
        let (mut answers, mut acked) = (Answers::default(), vec![false; chunks.len()]);
        for part in answer.chunks(piece) {
            answers.buffer().extend_from_slice(part);
            if answers.settle(&chunks, &mut acked).is_err() {
                return (acked, None);
            }
            assert!(answers.rest().len() <= ANSWER_MAX + 8, "what is held of an ack has a limit");
        }
        (acked, Some(answers.rest().to_vec()))
    };
    let expected = plainly(answer, &chunks);
    assert_eq!(run(answer.len().max(1)), expected, "at once");
    let piece = usize::from(*piece).max(1);
    assert_eq!(run(piece), expected, "in pieces of {piece}");
}

/// What [`Answers`] comes to, worked out from all bytes at once without its scan: what is marked, and what is left.
fn plainly(mut answer: &[u8], chunks: &[Vec<u8>]) -> (Vec<bool>, Option<Vec<u8>>) {
    let mut acked = vec![false; chunks.len()];
    while !answer.is_empty() {
        let mut skip = Skip::values(1);
        let Ok(end) = skip.advance(answer) else { return (acked, None) };
        if end as u64 + skip.owed() > ANSWER_MAX as u64 {
            return (acked, None);
        }
        if !skip.is_done() {
            return (acked, Some(answer.to_vec()));
        }
        let id = msgpack::pairs(&answer[..end]).and_then(|pairs| {
            let named = pairs.filter(|(key, _)| matches!(msgpack::peek(key), Some(msgpack::Peek::Bytes(b"ack"))));
            named.last().map(|(_, value)| value)
        });
        let Some(Some(msgpack::Peek::Bytes(id))) = id.map(msgpack::peek) else { return (acked, None) };
        let Some(at) = (0..chunks.len()).find(|at| !acked[*at] && chunks[*at] == id) else { return (acked, None) };
        acked[at] = true;
        answer = &answer[end..];
    }
    (acked, Some(Vec::new()))
}

#[cfg(test)]
#[path = "ack_tests.rs"]
mod tests;
