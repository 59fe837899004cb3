//! The fuzz target of frames: any bytes, in any pieces, as JSON and as they came.

use crate::batch::{Added, Batch};
use crate::codec::gzip;
use crate::codec::ndjson::Encoder;
use crate::record::Timestamp;

use super::{Decoder, Limits, Step};

/// One run of the fuzzer: any bytes, in pieces that the first byte gives, against the same bytes at once; in pieces of odd
/// length records become JSON while they are read.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else { return };
    let limits = Limits {
        frame_max: 1 << 20,
        whole_max: 64 << 10,
        entry_max: 16 << 10,
        inflate: gzip::Limits { output_max: 1 << 20, ratio_max: 100, free: 64 << 10 },
        ..Limits::default()
    };
    let budget = crate::budget::Budget::new(64 << 20);
    let run = |piece: usize, as_json: bool| {
        let mut batch = Batch::new(budget.empty_permit(), 0, std::sync::Arc::default());
        batch.permit_mut().grow(8 << 20);
        let mut decoder = Decoder::new(limits, true);
        decoder.set_as_json(as_json);
        let (mut from, mut to, mut lost) = (0, 0, None);
        while lost.is_none() {
            let (used, step) = decoder.decode(&data[from..to], &mut batch, Timestamp(0));
            from += used;
            match step {
                Step::NeedMore if to == data.len() => break,
                Step::NeedMore => to = (to + piece).min(data.len()),
                Step::NeedsMemory(need) => decoder.grant(need),
                Step::Full => return None,
                Step::FrameEnd => (),
                Step::Lost(why) => lost = Some(why.offset),
            }
        }
        // How much of a frame was taken before its framing was lost, or before the input ended, depends on how much of it
        // was there: that it is bad, or too large to wait for, is seen sooner with more of it. Nothing of it is
        // acknowledged either way. (Frames before it are compared by inputs that end with them.)
        let ended = lost.is_none() && !decoder.is_mid_frame() && from == data.len();
        let lines = |batch: &Batch| {
            let (mut encoder, mut lines) = (Encoder::new(Added::ALL), Vec::new());
            (0..batch.len()).for_each(|at| encoder.row(batch, at, &mut lines));
            lines
        };
        Some(ended.then(|| (lines(&batch), batch.len(), batch.tally.rejected)))
    };
    // Also that both end: one in pieces that waits for more than there is never goes on.
    let in_pieces = run(usize::from(*piece).max(1), piece % 2 == 1);
    if let (Some(whole), Some(pieces)) = (run(data.len().max(1), false), in_pieces) {
        assert_eq!(whole, pieces, "lines, rows and rejects at once and in pieces of {piece}");
    }
}
