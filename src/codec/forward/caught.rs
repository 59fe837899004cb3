//! The bytes of what is refused, on their way into a [`Scrap`]: of a frame from its first byte that is still there to its
//! end, copied while it is passed over. Good frames are never copied.
//!
//! A frame that was refused holds up to [`SCRAP_MAX`](crate::batch::SCRAP_MAX) bytes until it ends
//! ([`Decoder::caught`]). Of a frame that never ends nothing is kept: its sender gives it again.

use crate::batch::{Batch, Scrap};
use crate::metrics::RejectReason;
use crate::record::Tag;

use super::{Decoder, State};

/// A frame, or in JSON mode an entry, that is being passed over.
#[derive(Debug)]
pub(super) struct Caught {
    pub(super) scrap: Scrap,
    /// It is a frame, whose first bytes may be used already.
    is_frame: bool,
    begun: bool,
}

impl Caught {
    /// `None` where the batch has no room for more of what is refused.
    pub(super) fn frame(reason: RejectReason, tag: Option<&Tag>, batch: &mut Batch) -> Option<Caught> {
        let scrap = Scrap::begin(reason, "frame", tag, batch)?;
        Some(Caught { scrap, is_frame: true, begun: false })
    }

    /// The same for an entry.
    pub(super) fn entry(reason: RejectReason, tag: Option<&Tag>, batch: &mut Batch) -> Option<Caught> {
        let scrap = Scrap::begin(reason, "entry", tag, batch)?;
        Some(Caught { scrap, is_frame: false, begun: false })
    }

    pub(super) fn is_frame(&self) -> bool {
        self.is_frame
    }

    /// `used` bytes of `input` at `at` are done with, `into` bytes behind the start of the frame. What was before this
    /// input may still be there.
    pub(super) fn follow(&mut self, before: &[u8], input: &[u8], at: usize, used: usize, into: u64) {
        let mut from = at;
        if self.is_frame && !self.begun {
            let back = usize::try_from(into).unwrap_or(usize::MAX);
            from -= back.min(at);
            let there = (back - (at - from)).min(before.len());
            self.scrap.from = into - (at - from + there) as u64;
            self.scrap.whole = self.scrap.from;
            self.scrap.add(&before[before.len() - there..]);
        }
        self.begun = true;
        self.scrap.add(&input[from..at + used]);
    }
}

impl Decoder {
    /// Rejects the frame at hand: counts it and keeps its bytes. `tagged`: its tag is known.
    pub(super) fn refuse(&mut self, reason: RejectReason, tagged: bool, batch: &mut Batch) {
        batch.tally.reject(reason);
        self.catch(reason, tagged, batch);
    }

    /// Keeps the bytes of the frame at hand, whose reason may become another one.
    pub(super) fn catch(&mut self, reason: RejectReason, tagged: bool, batch: &mut Batch) {
        if self.caught.is_none() {
            let tag = self.tag.as_ref().filter(|_| tagged).map(|(_, tag)| tag);
            self.caught = Caught::frame(reason, tag, batch);
        }
    }

    /// Rejects the frame whose blob was passed over, for the reason that its options give.
    pub(super) fn refuse_arrived(&mut self, reason: RejectReason, batch: &mut Batch) {
        batch.tally.reject(reason);
        if let Some(caught) = &mut self.caught {
            caught.scrap.reason = reason;
        }
    }

    /// `used` bytes of `input` at `at` are done with: those of a refused frame are kept.
    pub(super) fn follow_caught(&mut self, before: &[u8], input: &[u8], at: usize, used: usize, batch: &mut Batch) {
        let Some(mut caught) = self.caught.take() else { return };
        caught.follow(before, input, at, used, self.offset - self.frame_at);
        if matches!(self.state, State::Between) {
            batch.scraps.add(caught.scrap);
        } else {
            self.caught = Some(caught);
        }
    }

    /// Bytes that are held of what is refused and has not ended.
    pub fn caught(&self) -> usize {
        let frame = match &self.json {
            Some(json) => &json.caught,
            None => &self.caught,
        };
        frame.as_ref().map_or(0, |caught| caught.scrap.bytes.len()) + self.entries.caught()
    }

    /// Lets go of them: their memory is needed.
    pub fn let_go_of_caught(&mut self) {
        let frame = match &mut self.json {
            Some(json) => &mut json.caught,
            None => &mut self.caught,
        };
        if let Some(caught) = frame {
            caught.scrap.let_go();
        }
        self.entries.let_go_of_caught();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::batch::Batch;
    use crate::budget::Budget;
    use crate::codec::forward::tests::run_with;
    use crate::codec::forward::{Decoder, Limits, Step};
    use crate::codec::gzip::{Codec, compress};
    use crate::record::Timestamp;

    /// Reason, what, tag, bytes.
    type Seen = (&'static str, &'static str, Option<String>, Vec<u8>);

    /// What is refused of these bytes in pieces of that size: as long as it is said to be, and its first byte still there.
    fn refused(bytes: &[u8], piece: usize, limits: Limits, room: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        run_with(bytes, &[piece], limits, room, |batch| {
            for scrap in &batch.scraps.kept {
                assert_eq!(scrap.from + scrap.bytes.len() as u64, scrap.whole, "{scrap:?}");
                assert_eq!(scrap.from, 0, "{scrap:?}");
                let tag = scrap.tag.as_ref().map(|tag| tag.as_str().to_owned());
                seen.push((scrap.reason.name(), scrap.what, tag, scrap.bytes.clone()));
            }
        });
        seen
    }

    fn blob(head: &[u8], blob: &[u8], options: &[u8]) -> Vec<u8> {
        let len = u8::try_from(blob.len()).expect("short");
        [head, &[0xc4, len], blob, options].concat()
    }

    #[test]
    fn what_is_refused_is_kept_whole_wherever_it_is_cut() {
        const GOOD: &[u8] = b"\x92\x01\x81\xa1a\x01";
        const FRAME: &[u8] = b"\x94\xa1g\x01\x81\xa1a\x01\x81\xa5chunk\xa1c";
        let t = || Some("t".to_owned());
        let frame = |reason, tag, bytes: &[u8]| (bytes.to_vec(), vec![(reason, "frame", tag, bytes.to_vec())]);
        let entries = |entry: &[u8]| [b"\x93\xa1t\x93", GOOD, entry, GOOD, b"\x81\xa5chunk\xa1c"].concat();
        let entry = |reason, bytes: Vec<u8>, entry: &[u8]| (bytes, vec![(reason, "entry", t(), entry.to_vec())]);
        let mut zipped = Vec::new();
        compress(Codec::Gzip, 3, &[GOOD, b"\x92\x01\xa3bad", GOOD].concat(), &mut zipped);
        let two = [b"\x93\xa1t\x94\x92\x01\x05", GOOD, b"\x92\x01\x06", GOOD, b"\x80"].concat();
        let cases = [
            frame("bad_frame", None, b"\x91\xa1t"),
            frame("bad_frame", t(), b"\x92\xa1t\x01"),
            frame("bad_tag", None, b"\x94\xc0\x01\x81\xa1a\x01\x81\xa5chunk\xa1c"),
            frame("not_a_map", t(), b"\x94\xa1t\x01\x05\x81\xa5chunk\xa1c"),
            frame("unknown_codec", t(), &blob(b"\x93\xa1t", b"\x05\x06", b"\x81\xaacompressed\xa3lz4")),
            frame("not_logs", t(), &blob(b"\x93\xa1t", GOOD, b"\x81\xadfluent_signal\x01")),
            frame("bad_compression", t(), &blob(b"\x93\xa1t", b"\x05\x06", b"\x81\xaacompressed\xa4gzip")),
            frame("bad_entry", t(), &blob(b"\x93\xa1t", &[GOOD, b"\x92\x01"].concat(), b"\x80")),
            entry("not_a_map", entries(b"\x92\x01\xa3bad"), b"\x92\x01\xa3bad"),
            entry("not_a_map", blob(b"\x93\xa1t", &zipped, b"\x81\xaacompressed\xa4gzip"), b"\x92\x01\xa3bad"),
            // A run of values that are no entries is counted once, and is one.
            entry("bad_entry", blob(b"\x92\xa1t", &[GOOD, b"\x05\xa1x\x06", GOOD].concat(), b""), b"\x05\xa1x\x06"),
            entry("bad_entry", blob(b"\x92\xa1t", &[GOOD, b"\x05\xa1x"].concat(), b""), b"\x05\xa1x"),
            (
                two,
                vec![b"\x92\x01\x05", b"\x92\x01\x06"]
                    .into_iter()
                    .map(|e| ("not_a_map", "entry", t(), e.to_vec()))
                    .collect(),
            ),
        ];
        for (bytes, expected) in cases {
            let all = [FRAME, &bytes, FRAME, &bytes, FRAME].concat();
            let expected = [expected.clone(), expected].concat();
            for piece in [all.len(), 1, 3] {
                assert_eq!(refused(&all, piece, Limits::default(), 1 << 20), expected, "pieces of {piece}");
            }
        }
        assert_eq!(refused(&FRAME.repeat(9), 5, Limits::default(), 1 << 20), []);
    }

    #[test]
    fn what_is_refused_in_json_is_kept_whole_wherever_it_is_cut() {
        let t = || Some("t".to_owned());
        let long = format!(r#"["t",[[1,{{"a":"{}"}}],[1,{{}}]]]"#, "x".repeat(200));
        let cases = [
            (r#"["t",1,5,{"chunk":"c"}]"#, vec![("not_a_map", "frame", t(), r#"["t",1,5,{"chunk":"c"}]"#)]),
            (r#"[5,1,{"a":1}]"#, vec![("bad_tag", "frame", None, r#"[5,1,{"a":1}]"#)]),
            (r#"["t"]"#, vec![("bad_frame", "frame", t(), r#"["t"]"#)]),
            (r#"["t","packed" , {}]"#, vec![("bad_frame", "frame", t(), r#"["t","packed" , {}]"#)]),
            (r#"{"a":[1]}"#, vec![("bad_frame", "frame", None, r#"{"a":[1]}"#)]),
            (r#"["t",[[1,{}],[1,7],[1,{}]]]"#, vec![("not_a_map", "entry", t(), "[1,7]")]),
            (&long, vec![("too_large", "entry", t(), &long[6..long.len() - 9])]),
        ];
        let limits = Limits { entry_max: 100, ..Limits::default() };
        for (text, expected) in &cases {
            let all = format!(r#"["g",1,{{}}] {text} ["g",1,{{}}]{text}["g",1,{{}}]"#);
            let expected: Vec<Seen> = expected
                .iter()
                .map(|(reason, what, tag, text)| (*reason, *what, tag.clone(), text.as_bytes().to_vec()))
                .collect();
            let expected = [expected.clone(), expected].concat();
            for piece in [all.len(), 1, 3] {
                assert_eq!(refused(all.as_bytes(), piece, limits, 1 << 20), expected, "{text}, pieces of {piece}");
            }
        }
    }

    #[test]
    fn of_a_frame_whose_beginning_is_gone_the_rest_is_kept_and_said() {
        let mut zipped = Vec::new();
        compress(Codec::Gzip, 3, &b"\x92\x01\x81\xa1a\x01".repeat(5_000), &mut zipped);
        zipped.truncate(zipped.len() - 3);
        let frame = blob(b"\x93\xa1t", &zipped, b"\x80");
        // All that was given before is still there, or the last so many bytes of it.
        for kept in [usize::MAX, 20, 0] {
            let budget = Budget::new(64 << 20);
            let mut batch = Batch::new(budget.try_acquire(8 << 20).expect("free"), 0, Arc::default());
            let mut decoder = Decoder::new(Limits { whole_max: 1, ..Limits::default() }, true);
            let (mut from, mut to) = (0, 0);
            loop {
                let before = &frame[from - from.min(kept)..from];
                let (used, step) = decoder.decode_after(before, &frame[from..to], &mut batch, Timestamp(0));
                from += used;
                match step {
                    Step::NeedMore if to == frame.len() => break,
                    Step::NeedMore => to = (to + 4).min(frame.len()),
                    Step::NeedsMemory(need) => decoder.grant(need),
                    step => assert_eq!(step, Step::FrameEnd),
                }
            }
            let scrap = &batch.scraps.kept[0];
            assert_eq!(
                (batch.scraps.kept.len(), scrap.reason.name(), scrap.whole),
                (1, "bad_compression", frame.len() as u64)
            );
            assert_eq!(scrap.from > 0, kept < usize::MAX, "{scrap:?}");
            assert_eq!(scrap.bytes, frame[usize::try_from(scrap.from).expect("short")..], "{kept}");
            assert!(kept == usize::MAX || scrap.bytes.len() >= kept, "{scrap:?}");
        }
    }

    #[test]
    fn what_is_held_of_an_unfinished_frame_is_told_and_can_be_let_go() {
        let budget = Budget::new(1 << 20);
        let cases: [(&[u8], usize); 3] =
            [(b"\x94\xc0\x01", 3), (b"\x93\xa1t\x92\x91\xa5ab", 4), (br#"["t",1,5,{"a":"#, r#"["t",1,5,"#.len())];
        for (bytes, held) in cases {
            let mut batch = Batch::new(budget.empty_permit(), 0, Arc::default());
            batch.permit_mut().grow(1 << 19);
            let mut decoder = Decoder::new(Limits { whole_max: 1, ..Limits::default() }, true);
            let (_, step) = decoder.decode(bytes, &mut batch, Timestamp(0));
            assert_eq!((step, decoder.caught()), (Step::NeedMore, held), "{bytes:?}");
            decoder.let_go_of_caught();
            assert_eq!(decoder.caught(), 0);
        }
    }
}
