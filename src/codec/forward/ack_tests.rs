use super::*;
use crate::codec::msgpack::write;

/// `{"ack": id}` with the id as `str`.
fn ack(id: &[u8]) -> Vec<u8> {
    let mut out = b"\x81\xa3ack".to_vec();
    write::text(id, &mut out);
    out
}

fn ids(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// What is marked after `answer` in pieces of that size, and whether something unasked came.
fn run(answer: &[u8], chunks: &[Vec<u8>], piece: usize) -> (Vec<bool>, bool) {
    let (mut answers, mut acked) = (Answers::default(), vec![false; chunks.len()]);
    for part in answer.chunks(piece) {
        answers.buffer().extend_from_slice(part);
        if answers.settle(chunks, &mut acked).is_err() {
            return (acked, true);
        }
        assert!(answers.rest().len() <= ANSWER_MAX + 8);
    }
    (acked, false)
}

#[test]
fn acks_are_matched_however_they_are_cut_and_in_any_order() {
    let long = "c".repeat(300);
    let chunks = ids(&["a", "YWJj\n", "", &long]);
    let one_after_another: Vec<u8> = chunks.iter().flat_map(|id| ack(id)).collect();
    let backwards: Vec<u8> = chunks.iter().rev().flat_map(|id| ack(id)).collect();
    for answer in [one_after_another, backwards] {
        for piece in 1..=answer.len() {
            assert_eq!(run(&answer, &chunks, piece), (vec![true; 4], false), "pieces of {piece}");
        }
        // Nothing is marked before the last byte of its ack.
        for cut in 0..answer.len() {
            let whole = (0..4).filter(|count| {
                let end: usize = match answer.starts_with(&ack(b"a")) {
                    true => chunks[..=*count].iter().map(|id| ack(id).len()).sum(),
                    false => chunks[3 - count..].iter().map(|id| ack(id).len()).sum(),
                };
                end <= cut
            });
            let (acked, unasked) = run(&answer[..cut], &chunks, 7);
            assert_eq!((acked.iter().filter(|acked| **acked).count(), unasked), (whole.count(), false), "{cut}");
        }
    }
}

#[test]
fn an_id_is_its_bytes_and_other_keys_mean_nothing() {
    let chunks = ids(&["id"]);
    let wide: [&[u8]; 9] = [
        b"\x81\xa3ack\xa2id",
        b"\x81\xa3ack\xc4\x02id",
        b"\xde\x00\x01\xd9\x03ack\xda\x00\x02id",
        b"\xdf\x00\x00\x00\x01\xc4\x03ack\xdb\x00\x00\x00\x02id",
        b"\x81\xa3ack\xc5\x00\x02id",
        b"\x81\xa3ack\xc6\x00\x00\x00\x02id",
        b"\x82\xa1x\x92\x01\x81\xa1y\xc0\xa3ack\xa2id",
        b"\x82\x07\xc3\xa3ack\xa2id",
        // The last wins.
        b"\x82\xa3ack\xa2no\xa3ack\xa2id",
    ];
    for answer in wide {
        for piece in [1, answer.len()] {
            assert_eq!(run(answer, &chunks, piece), (vec![true], false), "{answer:?}");
        }
    }
}

#[test]
fn what_nobody_waits_for_is_unasked_and_what_came_before_counts() {
    let chunks = ids(&["one", "two"]);
    let good = ack(b"one");
    let cases: [&[u8]; 17] = [
        b"\x81\xa3ack\xa5three",
        // Acked before.
        &good,
        b"\x80",
        b"\x81\xa3ack\xc0",
        b"\x81\xa3ack\x05",
        b"\x81\xa3ack\x91\xa3two",
        b"\x81\xa3ack\x81\xa3ack\xa3two",
        b"\x81\xa3ack\xd4\x00\x01",
        b"\x81\xa3ACK\xa3two",
        b"\x81\xa3two\xa3ack",
        b"\x92\xa3ack\xa3two",
        b"\xa3two",
        b"\xc0",
        b"\xc1",
        b"\x81\xa3ack\xc1",
        b"{\"ack\":\"two\"}",
        b"HTTP/1.1 400 Bad Request\r\n",
    ];
    for bad in cases {
        let answer = [&good, bad].concat();
        for piece in [1, 3, answer.len()] {
            assert_eq!(run(&answer, &chunks, piece), (vec![true, false], true), "{bad:?} in pieces of {piece}");
        }
        let (mut answers, mut acked) = (Answers::default(), [false; 2]);
        answers.buffer().extend_from_slice(&answer);
        assert_eq!(answers.settle(&chunks, &mut acked), Err(Unasked));
        assert_eq!(answers.rest(), bad, "what it was can be said");
    }
}

#[test]
fn frames_of_the_same_id_wait_for_an_ack_each() {
    let chunks = ids(&["same", "other", "same"]);
    let same = ack(b"same");
    assert_eq!(run(&same, &chunks, 4), (vec![true, false, false], false));
    assert_eq!(run(&same.repeat(2), &chunks, 4), (vec![true, false, true], false));
    assert_eq!(run(&same.repeat(3), &chunks, 4), (vec![true, false, true], true));
    assert_eq!(run(&[same.repeat(2), ack(b"other")].concat(), &chunks, 5), (vec![true; 3], false));
    assert_eq!(run(&same, &[], 4), (vec![], true));
}

#[test]
fn huge_claims_are_known_from_their_heads_and_nothing_is_held_for_them() {
    let chunks = ids(&["c"]);
    let max = ANSWER_MAX - 8;
    let longest = [&b"\x81\xa3ack\xda"[..], &(max as u16).to_be_bytes(), &vec![b'x'; max]].concat();
    assert_eq!(longest.len(), ANSWER_MAX);
    let fitting = vec![vec![b'x'; max]];
    for piece in [1, 512, longest.len()] {
        assert_eq!(run(&longest, &fitting, piece), (vec![true], false), "the longest ack, in pieces of {piece}");
    }
    let longer = [&b"\x81\xa3ack\xda"[..], &(max as u16 + 1).to_be_bytes(), &vec![b'x'; max + 1]].concat();
    let heads: [&[u8]; 7] = [
        b"\x81\xa3ack\xdb\xff\xff\xff\xff",
        b"\x81\xa3ack\xc6\xff\xff\xff\xff",
        b"\x81\xa3ack\xc9\xff\xff\xff\xff\x01",
        b"\x81\xdb\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\xa3ack",
        b"\x81\xa3ack\xdd\xff\xff\xff\xff",
        &longer[..8],
    ];
    for head in heads {
        for piece in [1, head.len()] {
            assert_eq!(run(head, &chunks, piece), (vec![false], true), "{head:?}");
        }
    }
    assert_eq!(
        run(&longer, &[vec![b'x'; max + 1]], longer.len()),
        (vec![false], true),
        "also where all of it is there"
    );
    // Nesting that never ends.
    assert_eq!(run(&vec![0x91; 1 << 20], &chunks, 512), (vec![false], true));
    assert_eq!(run(&[&b"\x81"[..], &vec![0x81; 1 << 20]].concat(), &chunks, 512), (vec![false], true));
}

#[test]
fn each_byte_of_an_ack_is_looked_at_a_bounded_number_of_times() {
    // The most values that an ack can have, one byte each.
    let mut answer = b"\x82\xa3ack\xa1c\xa1x\xdc".to_vec();
    let items = ANSWER_MAX - answer.len() - 2;
    answer.extend((items as u16).to_be_bytes());
    answer.resize(ANSWER_MAX, 1);
    let before = msgpack::tests::STEPS.get();
    assert_eq!(run(&answer, &ids(&["c"]), 1), (vec![true], false));
    let steps = msgpack::tests::STEPS.get() - before;
    assert!(steps <= 4 * answer.len() as u64, "{steps} steps for {} bytes", answer.len());
}

#[test]
fn the_corpus_replays() {
    msgpack::replay("acks", fuzz_one);
}

proptest::proptest! {
    #[test]
    fn any_acks_in_any_order_and_any_bytes_are_read_as_by_the_plain_reader(
        piece in 1u8..40,
        names in proptest::collection::vec("[ab]{0,2}", 0..8),
        order in proptest::collection::vec(0usize..8, 0..12),
        flip in proptest::option::of((proptest::prelude::any::<proptest::sample::Index>(), 1u8..=255)),
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..6),
    ) {
        let mut data = vec![piece, names.len() as u8];
        for name in &names {
            data.push(name.len() as u8);
            data.extend_from_slice(name.as_bytes());
        }
        let heads = data.len();
        for at in order {
            data.extend(ack(names.get(at).map_or(b"", |name| name.as_bytes())));
        }
        data.extend(noise);
        if let Some((at, bits)) = flip && data.len() > heads {
            let at = heads + at.index(data.len() - heads);
            data[at] ^= bits;
        }
        fuzz_one(&data);
    }
}
