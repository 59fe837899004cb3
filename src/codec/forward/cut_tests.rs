use std::sync::Arc;

use super::tests::{NOW, chunk, encode, entry, packed, run_with, zipped};
use super::*;
use crate::budget::Budget;
use crate::codec::gzip::Codec;

/// Twenty entries that nothing packs.
fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..20)
        .flat_map(|_| [b"\x92\x01\x81\xa1a\xc5\x03\xe8".to_vec(), (0..1_000).map(|_| byte()).collect()].concat())
        .collect()
}

fn batch_of(budget: &Arc<Budget>) -> Batch {
    Batch::new(budget.try_acquire(32 << 20).expect("free"), 0, Arc::default())
}

#[test]
fn what_is_a_bomb_does_not_depend_on_how_the_blob_arrives() {
    let one = encode(&entry(1));
    let inflate = gzip::Limits { ratio_max: 100, free: 64 << 10, ..gzip::Limits::default() };
    let whole = Limits { inflate, ..Limits::default() };
    let streamed = Limits { whole_max: 1, ..whole };
    let same = |mebibytes: usize| one.repeat((mebibytes << 20) / one.len());
    for codec in [Codec::Gzip, Codec::Zstd] {
        // Some hundred bytes that become 1 MiB, and as much behind them as makes that a fair share.
        let fair = [zipped(codec, &same(1)), zipped(codec, &noise())].concat();
        let bomb = [zipped(codec, &same(32)), zipped(codec, &noise())].concat();
        // Zeros between two members are bytes of the blob too.
        let padded = [zipped(codec, &same(1)), vec![0; 12_000], zipped(codec, &one.repeat(20))].concat();
        for (name, blob, bombs) in [("fair", fair, false), ("padded", padded, false), ("a bomb", bomb, true)] {
            let frame = packed(blob, chunk("c"));
            let at_once = run_with(&frame, &[frame.len()], whole, 1 << 20, |_| ());
            assert_eq!(at_once.rejected, if bombs { vec![("bomb", 1)] } else { vec![] }, "{name}, {codec:?}");
            assert!(bombs || at_once.rows.len() == same(1).len() / one.len() + 20, "{name}, {codec:?}");
            for pieces in [&[frame.len(), 100][..], &[100], &[1]] {
                let seen = run_with(&frame, pieces, streamed, 1 << 20, |_| ());
                assert!(
                    seen == at_once,
                    "{name}, {codec:?}, {pieces:?}: {} of {}",
                    seen.rows.len(),
                    at_once.rows.len()
                );
            }
        }
    }
}

#[test]
fn of_a_blob_that_promises_much_and_sends_little_no_more_comes_out_than_the_ratio_allows() {
    let one = encode(&entry(1));
    let bomb = zipped(Codec::Zstd, &one.repeat((128 << 20) / one.len()));
    assert!(bomb.len() < 20_000, "{} bytes", bomb.len());
    let frame = [&b"\x93\xa1t\xc6\x03\0\0\0"[..], &bomb].concat();
    for piece in [frame.len(), 1_000] {
        let seen = run_with(&frame, &[piece], Limits::default(), 1 << 20, |_| ());
        assert_eq!((seen.rejected, seen.lost), (vec![], None));
        let (out, inflate) = (seen.rows.len() * one.len(), Limits::default().inflate);
        let most = (bomb.len() as u64 * inflate.ratio_max).max(inflate.free);
        assert!(out as u64 <= most && out as u64 >= most / 2, "{out} bytes of {most} in pieces of {piece}");
    }
}

#[test]
fn a_last_look_takes_the_entries_that_were_not_worth_one_when_they_came() {
    let bytes = [&b"\x93\xa1t\xc6\x00\x20\x00\x00"[..], &b"\x92\x01\x80".repeat(300)].concat();
    let budget = Budget::new(64 << 20);
    let (mut batch, mut decoder, mut from) = (batch_of(&budget), Decoder::new(Limits::default(), true), 0);
    for to in 1..=bytes.len() {
        let (used, step) = decoder.decode(&bytes[from..to], &mut batch, NOW);
        from += used;
        assert_eq!(step, Step::NeedMore);
    }
    assert!(batch.len() < 300, "else this shows nothing");
    decoder.look_again();
    assert_eq!(decoder.decode(&bytes[from..], &mut batch, NOW), (bytes.len() - from, Step::NeedMore));
    assert_eq!(batch.len(), 300);
}

#[test]
fn framing_that_is_lost_stays_lost_also_where_more_was_waited_for() {
    let limits = Limits { frame_max: 100, whole_max: 1, ..Limits::default() };
    let whole = [b"\x92\x01\x81\xa1a\xb0".as_slice(), &[b'x'; 16]].concat();
    // Its last entry is not whole, so a few bytes more would be waited for.
    let bytes = [b"\x92\xa1t\xdc\x00\x20".as_slice(), &whole.repeat(5), &whole[..9]].concat();
    let budget = Budget::new(64 << 20);
    let (mut batch, mut decoder) = (batch_of(&budget), Decoder::new(limits, true));
    let (begun, _) = decoder.decode(&bytes[..50], &mut batch, NOW);
    let bytes = &bytes[begun..];
    let (used, lost) = decoder.decode(bytes, &mut batch, NOW);
    assert!(matches!(lost, Step::Lost(lost) if matches!(lost.reason, LostReason::TooLarge(..))), "{lost:?}");
    assert!(begun > 0 && used > 0 && used < bytes.len());
    assert_eq!(decoder.decode(&bytes[used..], &mut batch, NOW), (0, lost));
}
