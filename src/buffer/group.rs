//! Frames that are written and synced together, in memory that the kernel can write from without a copy: it begins at a
//! multiple of [`BLOCK`] as long as it was reserved ([`Group::reserve`]) before the first frame, and is padded to one.

use super::Lsn;
use super::frame::{self, ALIGN, BLOCK, Header, Seed};

/// See the header.
#[derive(Debug, Default)]
pub struct Group {
    /// The first frame's number.
    first: Lsn,
    /// Frames, from `start` on.
    bytes: Vec<u8>,
    start: usize,
    lens: Vec<Option<u32>>,
}

impl Group {
    /// Adds a frame; gives whether it was small enough.
    pub fn push(&mut self, seed: Seed, head: Header, max: usize, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.lens.is_empty() {
            self.first = head.lsn;
            let start = self.bytes.as_ptr().align_offset(BLOCK);
            // Frames keep their own alignment, wherever the memory begins.
            self.start = if start < BLOCK && start.is_multiple_of(ALIGN) { start } else { 0 };
            self.bytes.clear();
            self.bytes.resize(self.start, 0);
        }
        let len = frame::append(seed, head, max, &mut self.bytes, encode);
        self.lens.push(len);
        len.is_some()
    }

    /// The first frame's number.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Of each frame, the bytes of its payload.
    pub fn lens(&self) -> &[Option<u32>] {
        &self.lens
    }

    /// Whether frame `at` was small enough.
    pub fn kept(&self, at: usize) -> bool {
        self.lens[at].is_some()
    }

    /// Makes room for frames of so many bytes, and no more: doubling would hold twice of a large one.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve_exact(bytes + 3 * BLOCK);
    }

    /// Fills up the last block with zeros; no frame may follow.
    pub fn pad(&mut self) {
        let len = self.start + self.len().next_multiple_of(BLOCK);
        self.bytes.resize(len, 0);
    }

    /// What is written: whole blocks once it is padded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Forgets the frames and keeps the memory, up to `keep` bytes of it.
    pub fn clear(&mut self, keep: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep);
        (self.start, self.first) = (0, 0);
        self.lens.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reserved_is_written_from_whole_blocks_each_time() {
        let seed = Seed::new(&[1; 16]);
        let mut group = Group::default();
        for round in 1..20 {
            let sizes = [10, 70_000, round * 1000, 4096 - frame::HEADER];
            group.reserve(sizes.iter().map(|size| size + frame::HEADER + 8).sum());
            for (at, size) in sizes.into_iter().enumerate() {
                let head = Header { lsn: (round * 10 + at) as u64, ..Header::default() };
                assert!(group.push(seed, head, usize::MAX, |out| out.resize(out.len() + size, 7)));
            }
            group.pad();
            assert_eq!(group.bytes().as_ptr().align_offset(BLOCK), 0, "round {round}");
            assert!(group.bytes().len().is_multiple_of(BLOCK));
            assert_eq!(
                Header::decode(seed, group.bytes()).map(|head| (head.lsn, head.len)),
                Some((round as u64 * 10, 10))
            );
            assert_eq!((group.first(), group.lens().len()), (round as u64 * 10, 4));
            group.clear(1 << 20);
        }
    }
    #[test]
    fn without_room_kept_frames_are_found_one_after_the_other_all_the_same() {
        let seed = Seed::new(&[1; 16]);
        let mut group = Group::default();
        for lsn in 1..4 {
            group.push(seed, Header { lsn, ..Header::default() }, 100, |out| out.extend_from_slice(b"a payload"));
        }
        group.pad();
        let mut at = 0;
        for lsn in 1..4 {
            let head = Header::decode(seed, &group.bytes()[at..]).expect("a header");
            assert_eq!(head.lsn, lsn);
            at += head.frame_len() as usize;
        }
        assert_eq!(group.bytes().len(), BLOCK);
    }
}
