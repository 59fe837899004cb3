//! Finished output files: their names, when a file is finished, and how many stay.
//!
//! `out.ndjson` becomes `out.2026-11-23T10-15-00Z.ndjson` in the same folder (`...Z-1.ndjson` if that is taken), so the
//! extension still tells what is in it. `keep` counts the finished files of one name, the newest by their names stay;
//! files that do not look like that are never touched.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, RenameFlags, renameat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use crate::record::Timestamp;

/// Names tried, at most.
const SUFFIX_MAX: u32 = 10_000;
const STAMP_LEN: usize = "2026-11-23T10-15-00Z".len();

/// When a file is finished and how many finished ones stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotate {
    /// Before it grows beyond this many bytes.
    pub size: Option<u64>,
    /// At the end of each such span of time, counted from 1970, UTC.
    pub every: Option<Duration>,
    /// So many finished files stay; all where it says nothing.
    pub keep: Option<usize>,
}

impl Rotate {
    /// Number of the span of time that `now` lies in; 0 where time does not matter.
    pub fn period(&self, now: Timestamp) -> i64 {
        let every = self.every.map_or(0, |every| i64::try_from(every.as_nanos()).unwrap_or(i64::MAX));
        if every == 0 { 0 } else { now.0.div_euclid(every) }
    }

    /// Whether a file of `len` bytes that was begun in `period` is finished before `more` bytes are written at `now`.
    pub fn is_due(&self, len: u64, more: u64, period: i64, now: Timestamp) -> bool {
        let grown = self.size.is_some_and(|size| len.saturating_add(more) > size);
        len > 0 && (grown || self.period(now) > period)
    }
}

/// Splits a name where the stamp goes: `out|.ndjson`, `out|.ndjson.gz`, `out|`.
fn split(name: &str) -> (&str, &str) {
    let packed = [".gz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let dot = packed.rfind('.').filter(|dot| *dot > 0).unwrap_or(packed.len());
    name.split_at(dot)
}

fn stamp(now: Timestamp) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(now.0)).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H-%M-%SZ").to_string()
}

/// Renames `name` in `folder` to a free name with the time in it and `mark` before that. Returns the new name.
pub fn set_aside(folder: BorrowedFd<'_>, name: &str, mark: &str, now: Timestamp) -> Result<String, Errno> {
    let (stem, extension) = split(name);
    let stamp = stamp(now);
    // After the newest of this second, not the first free one: the oldest may be deleted already, and a name that was
    // used again would count as the oldest and be deleted next.
    let newest =
        finished(folder, name)?.into_iter().filter(|(known, _, _)| *known == stamp).map(|(_, number, _)| number).max();
    let first = newest.map_or(0, |number| number.saturating_add(1));
    for number in first..first.saturating_add(SUFFIX_MAX) {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let new = format!("{stem}.{mark}{stamp}{suffix}{extension}");
        match rename_new(folder, name, &new) {
            Ok(()) => return Ok(new),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST)
}

fn rename_new(folder: BorrowedFd<'_>, from: &str, to: &str) -> Result<(), Errno> {
    match renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        // A file system without it: look first. Nobody else makes such names here.
        Err(Errno::INVAL | Errno::NOSYS) => match statat(folder, to, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => renameat(folder, from, folder, to),
            Err(error) => Err(error),
        },
        outcome => outcome,
    }
}

/// The stamp and number of a finished file of that name; `None` for anything else.
fn parse<'c>(name: &str, candidate: &'c str) -> Option<(&'c str, u32)> {
    let (stem, extension) = split(name);
    let middle = candidate.strip_prefix(stem)?.strip_prefix('.')?.strip_suffix(extension)?;
    let (stamp, number) = middle.split_at_checked(STAMP_LEN)?;
    let shape = |(at, byte): (usize, u8)| match at {
        4 | 7 | 13 | 16 => byte == b'-',
        10 => byte == b'T',
        19 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    if !stamp.bytes().enumerate().all(shape) {
        return None;
    }
    match number.strip_prefix('-') {
        Some(number) => Some((stamp, number.parse().ok()?)),
        None => number.is_empty().then_some((stamp, 0)),
    }
}

/// All finished files of that name, oldest first: stamp, number, name.
fn finished(folder: BorrowedFd<'_>, name: &str) -> Result<Vec<(String, u32, String)>, Errno> {
    let mut found: Vec<(String, u32, String)> = Vec::new();
    for entry in Dir::read_from(folder.as_fd())? {
        let entry = entry?;
        if let Ok(candidate) = entry.file_name().to_str()
            && let Some((stamp, number)) = parse(name, candidate)
        {
            found.push((stamp.to_owned(), number, candidate.to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

/// Deletes the oldest finished files of that name until `keep` stay. Returns how many were deleted.
pub fn prune(folder: BorrowedFd<'_>, name: &str, keep: usize) -> Result<usize, Errno> {
    let found = finished(folder, name)?;
    let surplus = found.len().saturating_sub(keep);
    for (_, _, old) in &found[..surplus] {
        match unlinkat(folder, old.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(surplus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const NOW: Timestamp = Timestamp(1_795_428_900_000_000_000); // 2026-11-23T10:15:00Z

    fn names(folder: &std::path::Path) -> Vec<String> {
        let name =
            |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string().expect("text");
        let mut names: Vec<String> = fs::read_dir(folder).expect("a folder").map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn the_stamp_goes_before_the_extensions() {
        for (name, expected) in [
            ("out.ndjson", "out.2026-11-23T10-15-00Z.ndjson"),
            ("out.ndjson.gz", "out.2026-11-23T10-15-00Z.ndjson.gz"),
            ("a.b.zst", "a.2026-11-23T10-15-00Z.b.zst"),
            ("out", "out.2026-11-23T10-15-00Z"),
            (".hidden", ".hidden.2026-11-23T10-15-00Z"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join(name), "x").expect("written");
            let fd = fs::File::open(folder.path()).expect("a folder");
            assert_eq!(set_aside(fd.as_fd(), name, "", NOW).as_deref(), Ok(expected));
            assert_eq!(names(folder.path()), [expected]);
            assert_eq!(parse(name, expected), Some(("2026-11-23T10-15-00Z", 0)), "{name}");
        }
    }

    #[test]
    fn a_taken_name_gets_a_number_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let fd = fs::File::open(folder.path()).expect("a folder");
        for text in ["1", "2", "3"] {
            fs::write(folder.path().join("out.log"), text).expect("written");
            set_aside(fd.as_fd(), "out.log", "", NOW).expect("renamed");
        }
        let stamp = "out.2026-11-23T10-15-00Z";
        assert_eq!(names(folder.path()), [format!("{stamp}-1.log"), format!("{stamp}-2.log"), format!("{stamp}.log")]);
        assert_eq!(fs::read_to_string(folder.path().join(format!("{stamp}.log"))).expect("text"), "1");
    }

    #[test]
    fn only_the_oldest_finished_files_of_that_name_are_deleted() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = [
            "out.ndjson",
            "out.torn-2020-01-01T00-00-00Z.ndjson",
            "other.2020-01-01T00-00-00Z.ndjson",
            "out.2020.ndjson",
        ];
        let newest = ["out.2026-11-23T10-15-00Z-10.ndjson", "out.2026-11-23T10-15-00Z-9.ndjson"];
        let oldest = ["out.2026-11-23T10-15-00Z.ndjson", "out.2025-01-01T00-00-00Z.ndjson"];
        for name in kept.iter().chain(&newest).chain(&oldest) {
            fs::write(folder.path().join(name), "x").expect("written");
        }
        let fd = fs::File::open(folder.path()).expect("a folder");
        assert_eq!(prune(fd.as_fd(), "out.ndjson", 2), Ok(2));
        let mut expected: Vec<&str> = kept.iter().chain(&newest).copied().collect();
        expected.sort_unstable();
        assert_eq!(names(folder.path()), expected);
    }

    #[test]
    fn a_file_is_due_by_size_and_by_time_but_never_while_empty() {
        let rotate = Rotate { size: Some(100), every: Some(Duration::from_secs(3600)), keep: None };
        let hour = 3_600_000_000_000;
        let period = rotate.period(NOW);
        assert!(!rotate.is_due(0, 1000, period, NOW));
        assert!(!rotate.is_due(50, 50, period, NOW));
        assert!(rotate.is_due(50, 51, period, NOW));
        assert!(!rotate.is_due(1, 1, period, Timestamp(NOW.0 + hour / 2)));
        assert!(rotate.is_due(1, 1, period, Timestamp(NOW.0 + hour)));
        assert!(!Rotate::default().is_due(1 << 40, 1, 0, NOW));
    }
}
