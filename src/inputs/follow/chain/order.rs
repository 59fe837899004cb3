//! The order of generations that were opened while their names shifted.
//!
//! Where rotations fall between the calls of one look at the folder, a name says little: a plain file was compressed
//! meanwhile and is there twice, or what was opened as the oldest was made after the newest. So those files are put in the
//! order of what they hold: the latest `time` of their last records. The records of a container are written in the order of
//! their times, but for pieces of a long line, which have the time of the first; hence the latest, and not the last. A
//! compressed file has the time of its plain one and comes next to it, where it is met as its copy. One that is not whole and
//! has the beginning of a plain one is left out: that will be its copy.
//!
//! The pieces of a line may lie in several generations, which then have the same latest time. The one that also has
//! earlier records is the older one. Where all are pieces of that line it is the one whose file was finished first: each is
//! compressed before the next one is.
//!
//! Limits: the last [`WINDOW`] bytes are looked at. A clock that is set back in the very moment of such rotations
//! deceives it. Files of other formats keep the place that the opener gave them; of those, a compressed file that has the
//! content and the time of a plain one is left out. Counter: `order_guessed`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use memchr::memmem;

use super::end::gz_wait;
use super::{Chain, copies, linger};
use crate::codec::time::parse_rfc3339;
use crate::inputs::Outlet;
use crate::inputs::follow::decode::Format;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{self, Look, Mark};
use crate::inputs::follow::source;
use crate::metrics::followed::Watching;

/// Room for more than one of Docker's longest records (98,304 escaped bytes and what labels add).
const WINDOW: usize = 256 << 10;

impl Chain {
    /// Puts the generations that wait in their order, if that is in doubt. Some: how long to wait to know, since one of
    /// them still grows.
    pub(super) fn put_in_order(&mut self, outlet: &Outlet) -> Option<Duration> {
        if !self.queue.iter().any(|held| held.doubted.load(Relaxed)) {
            return None;
        }
        // What is read already may be the plain file of the only one that waits; of a container's that is remembered.
        if !self.rules.docker || self.queue.len() > 1 {
            for held in self.queue.iter().filter(|held| held.gz) {
                if let Some(wait) = gz_wait(held, &mut self.gz_seen) {
                    return Some(wait);
                }
                // Said of a file that had the name before. (A container's chain asks again before it reads one.)
                if !self.rules.docker && copies::still_grows(held) {
                    held.closed.store(false, Relaxed);
                    return Some(linger::POLL);
                }
                // It is whole, and need not be waited for again while another one is.
                held.closed.store(true, Relaxed);
                self.gz_seen = None;
            }
        }
        let mut waiting: Vec<Arc<Held>> = self.queue.drain(..).collect();
        let guessed = self.sort(&mut waiting);
        outlet.counters().followed.watch(Watching::OrderGuessed, guessed);
        self.queue.extend(waiting);
        None
    }

    /// Sorts generations, if their order is in doubt. Returns how many doubtful ones had nothing to go by.
    pub(super) fn sort(&self, generations: &mut Vec<Arc<Held>>) -> u64 {
        let doubted = generations.iter().filter(|held| held.doubted.swap(false, Relaxed)).count() as u64;
        if doubted == 0 || self.rules.docker && generations.len() < 2 {
            return 0;
        }
        leave_out_unfinished(generations);
        if !self.rules.docker {
            // What is read has a plain file, too.
            let late = self.lingering.iter().map(|late| &late.source.held);
            let read: Vec<Arc<Held>> = self.current().into_iter().chain(late).map(Arc::clone).collect();
            leave_out_copies(generations, &read);
            // What still grows has neither yet.
            let grows =
                |held: &&Arc<Held>| held.gz && (gz_wait(held, &mut None).is_some() || copies::still_grows(held));
            generations.iter().filter(grows).for_each(|held| held.doubted.store(true, Relaxed));
            return if generations.len() < 2 { 0 } else { doubted };
        }
        by_content(generations)
    }

    /// How many of these generations, oldest first, have nothing but records from before that time: they were delivered.
    pub(super) fn older_than(&self, generations: &[Arc<Held>], time: i64) -> usize {
        if !self.rules.docker || time == 0 {
            return 0;
        }
        // A clock that was set back would make old ones of all that were written since.
        let last = |held| last_time(held, Format::Docker);
        if generations.iter().rev().find_map(last).is_none_or(|newest| newest < time) {
            return 0;
        }
        let old = generations.iter().take_while(|held| last(held).is_some_and(|last| last < time)).count();
        let old = old.min(generations.len().saturating_sub(1));
        // What follows the place was written after it. What begins before its last record and ends behind that was written by a clock
        // that had been set back and has passed it again, and then those in between may look old. (Where it passed it just between
        // two files they do.)
        let next = &generations[old];
        let is_passed = last(next).is_some_and(|last| last > time);
        let is_passed = is_passed && self.first_time(next).is_some_and(|first| first < time);
        if is_passed { 0 } else { old }
    }

    /// The time of a generation's first record, in nanoseconds since 1970.
    pub(super) fn first_time(&self, held: &Arc<Held>) -> Option<i64> {
        let start = source::start_of(held, WINDOW).ok()?;
        time_of(start.split(|byte| *byte == b'\n').next()?, self.rules.format)
    }

    /// Those of compressed files that are whole and have no record from after `time`, the last one that was delivered. The newest
    /// file has to have one: a clock that was set back would make old ones of all that were written since.
    pub(super) fn written_by(&self, files: Vec<Arc<Held>>, newest: &Arc<Held>, time: i64) -> Vec<Arc<Held>> {
        let format = self.rules.format;
        if files.is_empty() || time == 0 || last_time(newest, format).is_none_or(|newest| newest <= time) {
            return Vec::new();
        }
        // What ends within a line has more than the times of its lines tell.
        let is_old = |end: &[u8]| end.ends_with(b"\n") && last_time_in(end, format).is_some_and(|last| last <= time);
        let is_wanted =
            |held: &Arc<Held>| source::end_of(held, WINDOW).is_ok_and(|end| is_old(&end)) && source::is_whole(held);
        files.into_iter().filter(is_wanted).collect()
    }
}

/// Leaves out compressed files that are not whole and have the beginning of a plain one. Where names are certain the plain one
/// wins as well.
fn leave_out_unfinished(generations: &mut Vec<Arc<Held>>) {
    let plain: Vec<Arc<Held>> = generations.iter().filter(|held| !held.gz).map(Arc::clone).collect();
    let is_begun = |start: &[u8]| {
        let begins = |plain: &Arc<Held>| source::start_of(plain, start.len()).is_ok_and(|of| of == start);
        !start.is_empty() && plain.iter().any(begins)
    };
    let is_copy = |held: &Arc<Held>| source::start_of(held, WINDOW).is_ok_and(|start| is_begun(&start));
    generations.retain(|held| !held.gz || source::is_whole(held) || !is_copy(held));
}

/// Leaves out compressed files that have the content and the time of a plain one, of these or of what is read: that was
/// compressed between two looks. A plain one that has no name any more goes to where its copy was met: its own place was
/// that of the oldest.
pub(super) fn leave_out_copies(generations: &mut Vec<Arc<Held>>, read: &[Arc<Held>]) {
    let whole = |held: &Arc<Held>| {
        let look = held.look().ok()?;
        let head = source::head_of(held).ok().filter(|head| head.is_known())?;
        let tail = identity::tail_of(&*held.file().ok()?, look.size).ok()?;
        Some((Arc::clone(held), look, head, tail))
    };
    let plain: Vec<_> = generations.iter().chain(read).filter(|held| !held.gz).filter_map(whole).collect();
    let plain_of = |held: &Arc<Held>| {
        let changed = held.gz.then(|| held.look().ok())??.mtime;
        let is_its = |(_, of, head, tail): &&(Arc<Held>, Look, Mark, Mark)| {
            // Who compresses without keeping the time (kubelet) does it later, and removes the plain one then.
            let is_time = of.mtime == changed || of.mtime < changed && of.links == 0;
            is_time && source::has_marks(held, *head, *tail, of.size)
        };
        plain.iter().find(is_its)
    };
    let mut kept: Vec<Arc<Held>> = Vec::with_capacity(generations.len());
    for held in generations.iter() {
        match plain_of(held) {
            None if kept.iter().all(|known| known.id != held.id) => kept.push(Arc::clone(held)),
            Some((of, look, ..)) if look.links == 0 && generations.iter().any(|held| held.id == of.id) => {
                kept.retain(|held| held.id != of.id);
                kept.push(Arc::clone(of));
            }
            _ => {}
        }
    }
    *generations = kept;
}

/// Sorts generations of a container by what they hold. Returns how many had nothing to go by.
fn by_content(generations: &mut [Arc<Held>]) -> u64 {
    let times: Vec<Option<i64>> = generations.iter().map(|held| last_time(held, Format::Docker)).collect();
    // What says nothing of its time (a damaged file, one without a record) keeps its place.
    let places: Vec<usize> = (0..times.len()).filter(|at| times[*at].is_some()).collect();
    let alike = |at: usize| times.iter().filter(|time| **time == times[at]).count() > 1;
    let nearer: Vec<(Option<i64>, i64)> =
        (0..times.len()).map(|at| if alike(at) { began_and_changed(at, generations) } else { (None, 0) }).collect();
    let mut order = places.clone();
    // A plain file before its copy.
    order.sort_by_key(|at| (times[*at], nearer[*at], generations[*at].gz));
    let sorted: Vec<Arc<Held>> = order.into_iter().map(|at| Arc::clone(&generations[at])).collect();
    for (at, held) in places.iter().zip(sorted) {
        generations[*at] = held;
    }
    (generations.len() - places.len()) as u64
}

/// The time of a generation's first record, and when its file was finished: that of its plain file, if that is there too.
fn began_and_changed(at: usize, generations: &[Arc<Held>]) -> (Option<i64>, i64) {
    let held = &generations[at];
    let head = |held: &Arc<Held>| source::head_of(held).ok().filter(|head| head.is_known());
    let plain = held.gz.then(|| {
        // Decoded once: there may be many plain ones.
        let own = head(held);
        generations.iter().find(|plain| !plain.gz && head(plain) == own)
    });
    let plain = plain.flatten();
    let changed = plain.unwrap_or(held).look().map_or(0, |look| look.mtime);
    (first_docker_time(held), changed)
}

/// Between a Docker log's first record and its last.
pub fn time_within(held: &Arc<Held>) -> Option<Duration> {
    let nanos = last_time(held, Format::Docker)?.checked_sub(first_docker_time(held)?)?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

fn first_docker_time(held: &Arc<Held>) -> Option<i64> {
    let start = source::start_of(held, WINDOW).ok()?;
    time_of(start.split(|byte| *byte == b'\n').next()?, Format::Docker)
}

/// The latest time of the last records of a generation, in nanoseconds since 1970.
fn last_time(held: &Arc<Held>, format: Format) -> Option<i64> {
    last_time_in(&source::end_of(held, WINDOW).ok()?, format)
}

fn last_time_in(end: &[u8], format: Format) -> Option<i64> {
    let whole = end.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    whole.filter_map(|line| time_of(line, format)).max()
}

fn time_of(line: &[u8], format: Format) -> Option<i64> {
    // Docker writes `time` last; within a string its quotes are escaped.
    const KEY: &[u8] = b"\"time\":\"";
    let text = match format {
        Format::Docker => line.get(memmem::rfind(line, KEY)? + KEY.len()..)?.split(|byte| *byte == b'"').next()?,
        Format::Cri => line.split(|byte| *byte == b' ').next()?,
        Format::Text | Format::Json => return None,
    };
    parse_rfc3339(text).map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::path::Path;
    use std::time::SystemTime;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::super::super::generations;
    use super::*;

    /// A generation with records of these seconds, finished at that one.
    fn held(folder: &Path, name: &str, seconds: &[u32], changed: u64) -> Arc<Held> {
        let text: String =
            seconds.iter().map(|n| format!("{{\"log\":\"{name}\",\"time\":\"2026-11-24T10:00:{n:02}Z\"}}\n")).collect();
        let path = folder.join(name);
        let mut file = File::create(&path).expect("made");
        if name.ends_with(".gz") {
            let mut encoder = GzEncoder::new(&file, Compression::fast());
            encoder.write_all(text.as_bytes()).expect("written");
            encoder.finish().expect("written");
        } else {
            file.write_all(text.as_bytes()).expect("written");
        }
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(changed)).expect("set");
        generations::open(&path).expect("opens")
    }

    fn sorted(mut generations: Vec<Arc<Held>>) -> Vec<String> {
        by_content(&mut generations);
        generations.iter().map(|held| held.name.to_string()).collect()
    }

    #[test]
    fn generations_that_end_within_the_same_line_are_told_apart_by_where_they_begin_and_when_they_were_finished() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let held = |name, seconds: &[u32], changed| held(dir.path(), name, seconds, changed);
        // The line of second 5 begins in `a`, fills `b` and `c`, and ends in `d`.
        let all = [
            held("d", &[5, 5, 6], 40),
            held("c.gz", &[5], 30),
            held("b.gz", &[5, 5], 20),
            held("a.gz", &[3, 4, 5], 10),
        ];
        assert_eq!(sorted(all.to_vec()), ["a.gz", "b.gz", "c.gz", "d"]);
        let mut other_way = all.to_vec();
        other_way.reverse();
        assert_eq!(sorted(other_way), ["a.gz", "b.gz", "c.gz", "d"]);
        // Uncompressed, the next one comes after the one that is compressed.
        assert_eq!(sorted(vec![held("y", &[5, 5], 21), held("x.gz", &[5], 20)]), ["x.gz", "y"]);
    }

    #[test]
    fn a_copy_comes_next_to_its_plain_file_whenever_it_was_made() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let held = |name, seconds: &[u32], changed| held(dir.path(), name, seconds, changed);
        let (plain, next) = (held("p", &[5], 10), held("q", &[5], 15));
        let mut copy = GzEncoder::new(File::create(dir.path().join("p.gz")).expect("made"), Compression::fast());
        copy.write_all(&std::fs::read(dir.path().join("p")).expect("there")).expect("written");
        copy.finish().expect("written");
        let copy = generations::open(&dir.path().join("p.gz")).expect("opens");
        assert_eq!(sorted(vec![next, copy, plain]), ["p", "p.gz", "q"]);
    }

    #[test]
    fn a_copy_that_is_not_whole_is_left_out_beside_its_plain_file_only() {
        let dir = tempfile::tempdir().expect("a temp dir");
        // Lines that do not pack well, so that half of the bytes are some of them.
        let name = |n: u32| n.wrapping_mul(2_654_435_761).to_string().repeat(40);
        let text: String =
            (0..50).map(|n| format!("{{\"log\":\"{}\",\"time\":\"2026-11-24T10:00:{n:02}Z\"}}\n", name(n))).collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).expect("in memory");
        let packed = encoder.finish().expect("in memory");
        let put = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join(name), bytes).expect("written");
            generations::open(&dir.path().join(name)).expect("opens")
        };
        let (plain, other) = (put("p", text.as_bytes()), held(dir.path(), "o", &[55], 10));
        let (half, whole) = (put("h.gz", &packed[..packed.len() / 2]), put("w.gz", &packed));
        assert!(!source::start_of(&half, WINDOW).expect("read").is_empty());
        let left = |all: &[&Arc<Held>]| {
            let mut all: Vec<Arc<Held>> = all.iter().map(|held| Arc::clone(held)).collect();
            leave_out_unfinished(&mut all);
            all.iter().map(|held| held.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(left(&[&half, &whole, &plain, &other]), ["w.gz", "p", "o"]);
        assert_eq!(left(&[&half, &other]), ["h.gz", "o"]);
    }

    #[test]
    fn a_copy_is_left_out_only_if_it_has_the_content_and_the_time_of_a_plain_file() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (plain, other) = (held(dir.path(), "p", &[5], 10), held(dir.path(), "q", &[5], 10));
        let copy = |name: &str, changed| {
            let file = File::create(dir.path().join(name)).expect("made");
            let mut copy = GzEncoder::new(&file, Compression::fast());
            copy.write_all(&std::fs::read(dir.path().join("p")).expect("there")).expect("written");
            copy.finish().expect("written");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(changed)).expect("set");
            generations::open(&dir.path().join(name)).expect("opens")
        };
        let (same, later, earlier) = (copy("c.gz", 10), copy("d.gz", 11), copy("e.gz", 9));
        let left = |all: &[&Arc<Held>], read: &[Arc<Held>]| {
            let mut all: Vec<Arc<Held>> = all.iter().map(|held| Arc::clone(held)).collect();
            leave_out_copies(&mut all, read);
            all.iter().map(|held| held.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(left(&[&same, &plain, &later], &[]), ["p", "d.gz"]);
        assert_eq!(left(&[&same, &other], &[]), ["c.gz", "q"]);
        assert_eq!(left(&[&same, &other], &[Arc::clone(&plain)]), ["q"]);
        // An earlier look met it, and then it was compressed: what is older than its copy is older than it.
        std::fs::remove_file(dir.path().join("p")).expect("there");
        assert_eq!(left(&[&plain, &earlier, &same, &other], &[]), ["e.gz", "p", "q"]);
        assert_eq!(left(&[&same, &earlier, &plain], &[]), ["p", "e.gz"]);
        // Who does not keep the time compresses it later, and removes it then.
        assert_eq!(left(&[&later, &other, &earlier], &[Arc::clone(&plain)]), ["q", "e.gz"]);
    }
}
