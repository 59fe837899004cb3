//! The fuzz target of frames: any bytes, in any pieces, as JSON and as they came, with `log` of Docker's driver taken apart
//! while it is read and afterwards.

use crate::batch::{Added, Batch};
use crate::codec::ndjson::Encoder;
use crate::codec::{docker_json, gzip};
use crate::record::Timestamp;

use super::{Decoder, Limits, Step};

/// Bit of the first byte: `log` is taken apart. The other seven are the bytes of a piece.
pub(super) const APART: u8 = 0x80;

/// One run of the fuzzer: any bytes, in pieces that the first byte gives, against the same bytes at once. In pieces of odd
/// length records become JSON while they are read; or, for [`APART`], `log` is taken apart while it is read in pieces, and at
/// once by what the step does.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let (piece, is_apart) = (first & !APART, first & APART != 0);
    let limits = Limits {
        frame_max: 1 << 20,
        whole_max: 64 << 10,
        entry_max: 16 << 10,
        inflate: gzip::Limits { output_max: 1 << 20, ratio_max: 100, free: 64 << 10 },
        ..Limits::default()
    };
    let budget = crate::budget::Budget::new(64 << 20);
    let run = |piece: usize, as_json: bool, takes_apart: bool| {
        let mut batch = Batch::new(budget.empty_permit(), 0, std::sync::Arc::default());
        batch.permit_mut().grow(8 << 20);
        let mut decoder = Decoder::new(limits, true);
        decoder.set_as_json(as_json);
        decoder.set_takes_apart(takes_apart);
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
        if is_apart {
            (0..batch.len()).for_each(|at| docker_json::take_log_apart(&mut batch, at));
            // Objects that are copied whole keep blanks between tokens that others lose.
            batch.arena_mut();
        }
        let lines = |batch: &Batch| {
            let (mut encoder, mut lines) = (Encoder::new(Added::ALL), Vec::new());
            (0..batch.len()).for_each(|at| encoder.row(batch, at, &mut lines));
            lines
        };
        Some(ended.then(|| (lines(&batch), batch.len(), batch.tally.rejected)))
    };
    // Also that both end: one in pieces that waits for more than there is never goes on.
    let in_pieces = run(usize::from(piece).max(1), piece % 2 == 1 && !is_apart, is_apart);
    if let (Some(whole), Some(pieces)) = (run(data.len().max(1), false, false), in_pieces) {
        assert_eq!(whole, pieces, "lines, rows and rejects at once and in pieces of {piece}");
    }
}
