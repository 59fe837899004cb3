//! Where to go on after a restart: finds the place of a checkpoint in what is there now.
//!
//! The same file (device, inode, birth time) with the same content before the place is sure. The same content under
//! another identity is a copy, a restored backup, another device number after a reboot, or the generation compressed
//! meanwhile. The same file with other content was rewritten in place: from its start. Nothing of that: the generation
//! is gone, and the oldest one that is there is read from its head. A file that can not be read now is the one that it was,
//! if its birth time is. An unfinished line may have begun in an older file than the place's, and that may be gone alone.

use std::cmp::Ordering;
use std::sync::Arc;

use super::checkpoint::{Place, Saved};
use super::generations::Held;
use super::identity::FileId;
use super::source::{has_marks, shows_marks};

/// What became of a stored place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there: go on in this generation at this offset.
    Found,
    /// It is there, but the file is gone in which an unfinished line before it began: the line's first pieces are lost.
    Cut,
    /// The file is there, but was truncated or rewritten: read it from its head.
    Rewritten,
    /// The generation is gone: read everything that is there.
    Gone,
    /// The generation is gone, but it had been read to its end. The one after it may be there, compressed: nobody can
    /// say whether something was missed.
    GoneComplete,
}

impl Fate {
    /// Whether reading goes on at the place.
    pub fn is_there(self) -> bool {
        matches!(self, Fate::Found | Fate::Cut)
    }
}

/// Where a chain starts reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Index of the generation.
    pub at: usize,
    /// Content offset in it.
    pub offset: u64,
    /// This many bytes from there on were delivered before: read for an unfinished line only.
    pub replay: u64,
    /// Index of the generation that has the place, where these end.
    pub end: usize,
    /// What became of the stored place.
    pub fate: Fate,
    /// After which file the records of this one were named before.
    pub named: Option<FileId>,
}

/// Finds the start of a chain that has a checkpoint. `generations` are those that exist, oldest first.
pub fn find(generations: &[Arc<Held>], saved: &Saved) -> Start {
    let done = locate(generations, &saved.done);
    if let Some((hold, ahead)) = &saved.hold
        && let Some(end) = done
        && let Some(at) = beginning(generations, saved, end)
    {
        return Start { at, offset: hold.offset, replay: *ahead, end, fate: Fate::Found, named: Some(name_of(hold)) };
    }
    let is_cut = saved.hold.is_some();
    let there = if is_cut { Fate::Cut } else { Fate::Found };
    if let Some(at) = done {
        // Later pieces of the line lie before the place.
        let (offset, replay) = if is_cut { (0, saved.done.offset) } else { (saved.done.offset, 0) };
        return Start { at, offset, replay, end: at, fate: there, named: Some(name_of(&saved.done)) };
    }
    // Without a birth time it may be another file's inode by now.
    let next = saved.done.next.filter(|next| next.btime != 0 && *next != saved.done.id);
    if let Some(at) = generations.iter().position(|held| Some(held.id) == next) {
        return from_head(at, there);
    }
    let same_file = |held: &Arc<Held>| held.id == saved.done.id;
    if let Some(at) = generations.iter().position(same_file) {
        return from_head(at, Fate::Rewritten);
    }
    let copied = saved.done.next.is_some() && !is_cut && !saved.lost && generations.iter().any(|held| held.gz);
    let fate = if copied { Fate::GoneComplete } else { Fate::Gone };
    from_head(0, fate)
}

fn from_head(at: usize, fate: Fate) -> Start {
    Start { at, offset: 0, replay: 0, end: at, fate, named: None }
}

/// After which file its records are named.
fn name_of(place: &Place) -> FileId {
    place.named.unwrap_or(place.id)
}

/// Which generation has the beginning of the line that was unfinished at the place, which generation `done` has.
///
/// A file that begins with a piece may look like another one that does. So it is the one only if what is to be passed over as
/// delivered does not reach beyond the place, as far as that can be told: of a compressed file nobody knows the length yet
/// (`Chain::begin_place`).
fn beginning(generations: &[Arc<Held>], saved: &Saved, done: usize) -> Option<usize> {
    let (hold, ahead) = saved.hold.as_ref()?;
    if hold.offset.checked_add(*ahead) == Some(saved.done.offset) {
        return Some(done);
    }
    let reaches = |at: usize| {
        // What came late to a renamed file is before the place, and was read after what is in the next one.
        let (files, more) = if at < done { (at..done, saved.done.offset) } else { (at..generations.len(), 0) };
        let size = |held: &Arc<Held>| held.look().ok().filter(|_| !held.gz).map(|look| look.size);
        let all = generations[files].iter().map(size).sum::<Option<u64>>();
        all.is_none_or(|all| all.saturating_add(more).saturating_sub(hold.offset) >= *ahead)
    };
    let is_it = |at: &usize| {
        let held = &generations[*at];
        let has_it = match (*at).cmp(&done) {
            Ordering::Less => is_own(held, hold) || is_alike(held, hold),
            Ordering::Equal => hold.id == saved.done.id && (is_own(held, hold) || is_alike(held, hold)),
            // The place is in a renamed file, whose late lines came while the line was unfinished.
            Ordering::Greater => is_own(held, hold),
        };
        has_it && reaches(*at)
    };
    let own = generations.iter().position(|held| held.id == hold.id);
    own.into_iter().chain((0..=done).rev()).find(is_it)
}

/// Which generation has a place.
pub fn locate(generations: &[Arc<Held>], place: &Place) -> Option<usize> {
    let same = generations.iter().position(|held| is_own(held, place));
    // The newest first, for its tail is nearest.
    same.or_else(|| generations.iter().rposition(|held| is_alike(held, place)))
}

/// Whether a file is the one of a place, and nothing says that it is not as it was.
fn is_own(held: &Arc<Held>, place: &Place) -> bool {
    let may_be = || {
        shows_marks(held, place.head, place.tail, place.offset)
            .unwrap_or_else(|_| held.id.btime != 0 && !held.is_given_up())
    };
    held.id == place.id && may_be()
}

/// Whether a file has the content of a place: only if there is content to go by, and not a hole.
fn is_alike(held: &Arc<Held>, place: &Place) -> bool {
    let tells = if place.offset == 0 { place.head.tells() } else { place.head.tells() || place.tail.tells() };
    let known = place.head.is_known() && (place.tail.is_known() || place.offset == 0);
    known && tells && has_marks(held, place.head, place.tail, place.offset)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use super::super::{disk, identity};
    use super::super::{generations, source};
    use super::*;

    fn held(dir: &Path, name: &str, content: &[u8]) -> Arc<Held> {
        fs::write(dir.join(name), content).expect("written");
        generations::open(&dir.join(name)).expect("opens")
    }

    fn place(held: &Arc<Held>, offset: u64) -> Place {
        Place {
            id: held.id,
            name: held.name.to_string(),
            head: source::head_of(held).expect("read"),
            tail: identity::tail_of(&held.file().expect("held"), offset).expect("read"),
            offset,
            ..Place::default()
        }
    }

    #[test]
    fn a_copy_is_found_by_content_and_a_reused_inode_is_not_taken_for_the_file() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let old = held(dir.path(), "a", b"one\ntwo\nthree\n");
        let new = held(dir.path(), "b", b"four\nfive\nsix\n");
        let mut stored = place(&old, 8);
        assert_eq!(find(&[Arc::clone(&old), Arc::clone(&new)], &stored.clone().into()).offset, 8);
        // The new file got the old inode.
        stored.id = new.id;
        let start = find(&[Arc::clone(&old), Arc::clone(&new)], &stored.clone().into());
        assert_eq!((start.at, start.offset, start.fate), (0, 8, Fate::Found));
        let start = find(&[new], &stored.into());
        assert_eq!((start.at, start.offset, start.fate), (0, 0, Fate::Rewritten));
    }

    #[test]
    fn the_head_of_a_file_that_begins_with_a_hole_is_not_taken_for_another_one_s() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let hole = [0; 4096];
        let gone = held(dir.path(), "a", &[&hole[..], b"one\n"].concat());
        let other = held(dir.path(), "b", &[&hole[..], b"two\n"].concat());
        let (begun, read) = (place(&gone, 0), place(&gone, 4100));
        let copy = held(dir.path(), "c", &[&hole[..], b"one\n"].concat());
        let within = place(&gone, 4096);
        assert_eq!(find(&[Arc::clone(&other)], &begun.into()).fate, Fate::Gone);
        assert_eq!(find(&[Arc::clone(&other)], &within.into()).fate, Fate::Gone);
        assert_eq!(
            find(&[copy, other], &read.into()),
            Start { at: 0, offset: 4100, replay: 0, end: 0, fate: Fate::Found, named: Some(gone.id) }
        );
    }

    #[test]
    fn two_files_with_the_same_first_bytes_are_told_apart() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let header = vec![b'#'; 4096];
        let a = held(dir.path(), "a", &[&header[..], b"one\n"].concat());
        let b = held(dir.path(), "b", &[&header[..], b"two\n"].concat());
        let mut stored = place(&a, 4100);
        stored.id = FileId::default();
        assert_eq!(find(&[b, a], &stored.into()).at, 1);
    }

    #[test]
    fn a_generation_that_is_gone_means_the_oldest_one_from_its_head() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let gone = held(dir.path(), "a", b"one\n");
        let rest = [held(dir.path(), "b", b"two\n"), held(dir.path(), "c", b"three\n")];
        let mut stored = place(&gone, 4);
        assert_eq!(find(&rest, &stored.clone().into()), from_head(0, Fate::Gone));
        stored.next = Some(FileId::default());
        assert_eq!(find(&rest, &stored.clone().into()).fate, Fate::Gone, "the next one is gone, too");
        stored.next = Some(rest[1].id);
        assert_eq!(
            find(&rest, &stored.clone().into()),
            from_head(1, Fate::Found),
            "what was before the next one was read"
        );
        let packed = [held(dir.path(), "c.gz", b"")];
        stored.next = Some(FileId::default());
        assert_eq!(find(&packed, &stored.into()).fate, Fate::GoneComplete, "the next one may have been compressed");
    }

    #[test]
    fn a_line_whose_first_file_is_gone_is_cut_wherever_reading_goes_on() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let begun = held(dir.path(), "a", b"first piece\n");
        let rest = [held(dir.path(), "b", b"second piece\n"), held(dir.path(), "c", b"end\n")];
        let hold = Some((place(&begun, 0), 25));
        let mut stored = Saved { hold, ..place(&rest[0], 13).into() };
        let both = [Arc::clone(&begun), Arc::clone(&rest[0])];
        assert_eq!((find(&both, &stored).at, find(&both, &stored).fate), (0, Fate::Found));
        let start = find(&rest, &stored);
        assert_eq!((start.at, start.offset, start.replay, start.fate), (0, 0, 13, Fate::Cut));
        // The place was at the end of the first file.
        stored.done = Place { next: Some(rest[0].id), ..place(&begun, 12) };
        assert_eq!(find(&rest, &stored), from_head(0, Fate::Cut));
        let packed = [held(dir.path(), "b.gz", b"")];
        assert_eq!(find(&packed, &stored).fate, Fate::Gone, "what is lost for certain is more than a possible gap");
        (stored.hold, stored.lost) = (None, true);
        assert_eq!(find(&packed, &stored).fate, Fate::Gone, "that was known before");
    }

    #[test]
    fn what_begins_like_the_first_file_of_a_line_is_not_taken_for_it() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let content = |rest: &str| [&[b'p'; identity::HEAD_BYTES][..], rest.as_bytes()].concat();
        let files = ["piece\n", "piece of another\nand more\n", "end\n"].map(content);
        let [begun, alike, last] = ["a", "b", "c"].map(|name| {
            let at = usize::from(name.as_bytes()[0] - b'a');
            held(dir.path(), name, &files[at])
        });
        let sizes = files.each_ref().map(|file| file.len() as u64);
        let found = |held: &[&Arc<Held>], stored: &Saved| {
            let files: Vec<_> = held.iter().map(|held| Arc::clone(held)).collect();
            let start = find(&files, stored);
            (start.at, start.offset, start.replay, start.fate)
        };
        let stored = |done: Place, ahead| Saved { hold: Some((place(&begun, 0), ahead)), ..done.into() };
        // In the file of the place, and in one between it and where the line began.
        let in_next = stored(place(&alike, sizes[1]), sizes[0] + sizes[1]);
        let all = sizes.iter().sum();
        let in_last = stored(place(&last, sizes[2]), all);
        assert_eq!(found(&[&alike], &in_next), (0, 0, sizes[1], Fate::Cut));
        assert_eq!(found(&[&alike, &last], &in_last), (1, 0, sizes[2], Fate::Cut));
        assert_eq!(found(&[&begun, &alike, &last], &in_last), (0, 0, all, Fate::Found));
        // The first one was compressed, and is the other one that is alike.
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&files[0]).expect("in memory");
        let packed = held(dir.path(), "a.gz", &packed.finish().expect("in memory"));
        assert_eq!(found(&[&packed, &alike], &in_next), (0, 0, sizes[0] + sizes[1], Fate::Found));
        let in_first = stored(place(&begun, sizes[0]), sizes[0]);
        assert_eq!(found(&[&packed, &alike], &in_first), (0, 0, sizes[0], Fate::Found));
    }

    #[test]
    fn nothing_is_passed_over_for_an_unfinished_line_if_the_place_behind_it_is_not_there() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let begun = held(dir.path(), "a", b"first piece\n");
        let next = held(dir.path(), "b", b"other\n");
        let stored = Saved { hold: Some((place(&begun, 0), 18)), ..place(&next, 6).into() };
        fs::write(dir.path().join("b"), b"new\n").expect("written");
        assert_eq!(find(&[Arc::clone(&begun), next], &stored), from_head(1, Fate::Rewritten));
        // The end of the file was not on the disk when the machine lost its power.
        let stored = Saved { hold: Some((place(&begun, 0), 12)), ..place(&begun, 12).into() };
        fs::write(dir.path().join("a"), b"first p").expect("written");
        assert_eq!(find(&[begun], &stored), from_head(0, Fate::Rewritten));
    }

    #[test]
    fn a_file_that_can_not_be_read_now_is_the_one_that_it_was() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"one\ntwo\n").expect("in memory");
        let packed = held(dir.path(), "a.gz", &packed.finish().expect("in memory"));
        let plain = held(dir.path(), "a", b"one\ntwo\n");
        for (name, held) in [("/a.gz", &packed), ("/a", &plain)] {
            let mut stored = Place { id: held.id, ..place(&plain, 4) };
            stored.next = None;
            assert_eq!(find(std::slice::from_ref(held), &stored.clone().into()).fate, Fate::Found);
            disk::set_bad(Some(disk::Bad { name, from: 0, errno: rustix::io::Errno::IO }));
            let start = find(std::slice::from_ref(held), &stored.into());
            disk::set_bad(None);
            assert_eq!((start.at, start.offset, start.fate), (0, 4, Fate::Found), "{name}");
        }
    }

    impl From<Place> for Saved {
        fn from(done: Place) -> Saved {
            Saved { done, ..Saved::default() }
        }
    }
}
