//! The names of a folder, listed once for many looks that ask for theirs: 10,000 families of one folder took a core for more
//! than a minute at a start, when each of them listed 10,000 names.
//!
//! A listing stands as long as the folder's time of change, which nobody can set. That has the ticks of the kernel's clock: one
//! that was not older than a tick when the names were listed may stay the same though a name comes, and does not count. Nor does
//! that of a file system that is written to elsewhere ([`inotify::tells`]), where attributes may be remembered for longer than names,
//! nor one of whole seconds: there each look lists. Whether nobody has to look at all is said where the kernel tells all
//! ([`inotify::tells_all`]).

use std::io;
use std::path::{Path, PathBuf};

use super::identity::{self, FileId};
use super::{clock, disk, inotify};

/// See the header. As large as the names of one folder.
#[derive(Default)]
pub struct Listing {
    folder: PathBuf,
    /// Which folder that was, and its time of change, in nanoseconds since 1970; `None` if it was too young.
    changed: Option<(FileId, i64)>,
    /// Sorted.
    names: Vec<String>,
}

impl Listing {
    /// Whether the names of that folder are surely those that were listed last.
    pub fn stands(&self, folder: &Path) -> bool {
        self.folder == folder
            && self.changed.is_some()
            && inotify::tells_all(disk::file_system(folder))
            && identity::look_at(folder).is_ok_and(|look| Some((look.id, look.ctime)) == self.changed)
    }

    /// The names of that folder that begin so.
    ///
    /// # Errors
    /// The kernel's.
    pub fn beginning_with(&mut self, folder: &Path, start: &str) -> io::Result<&[String]> {
        let look_at = |folder| identity::look_at(folder).map(|look| (look.id, look.ctime));
        let before = look_at(folder)?;
        if self.folder != folder || self.changed != Some(before) {
            let began = clock::births();
            self.changed = None;
            self.names = disk::list(folder)?.into_iter().filter_map(|name| name.into_string().ok()).collect();
            self.names.sort_unstable();
            folder.clone_into(&mut self.folder);
            // Where a file system has whole seconds only, a change of the same second would not show.
            let is_fine = before.1 % 1_000_000_000 != 0 && inotify::tells(disk::file_system(folder));
            let stood = is_fine && before.1 < began && look_at(folder)? == before;
            self.changed = stood.then_some(before);
        }
        let first = self.names.partition_point(|name| name.as_str() < start);
        let rest = &self.names[first..];
        Ok(&rest[..rest.partition_point(|name| name.starts_with(start))])
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_are_listed_anew_whenever_one_came_or_went() {
        let dir = tempfile::tempdir().expect("a folder");
        let put = |name: &str| fs::write(dir.path().join(name), "").expect("written");
        let mut listing = Listing::default();
        let mut names = |start: &str| listing.beginning_with(dir.path(), start).expect("listed").to_vec();
        for n in 0..200 {
            // With and without a pause between: a tick may have both changes.
            put(&format!("a.log.{n}"));
            assert_eq!(names("a.log").len(), n + 1);
            assert_eq!(names("b.log").len(), 0);
            if n % 20 == 0 {
                std::thread::sleep(Duration::from_millis(25));
                assert_eq!(names("a.log").len(), n + 1);
            }
        }
        ["b", "a", "c.log", "a.log"].into_iter().for_each(put);
        assert_eq!((names("a.log").len(), names("b"), names("c.log.1").len()), (201, vec!["b".to_owned()], 0));
        fs::rename(dir.path().join("b"), dir.path().join("bb")).expect("renamed");
        assert_eq!(names("b"), ["bb"]);
        let other = tempfile::tempdir().expect("a folder");
        assert!(listing.beginning_with(other.path(), "b").expect("listed").is_empty());
        assert!(listing.beginning_with(&other.path().join("none"), "b").is_err());
    }

    #[test]
    fn a_folder_that_stays_as_it_is_is_listed_once() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("a"), "").expect("written");
        std::thread::sleep(Duration::from_millis(25));
        let mut listing = Listing::default();
        listing.beginning_with(dir.path(), "a").expect("listed");
        assert!(listing.changed.is_some() && listing.stands(dir.path()) && !listing.stands(Path::new("/")));
        // What no folder has shows that nobody looked.
        listing.names.push("b".to_owned());
        assert_eq!(listing.beginning_with(dir.path(), "b").expect("listed"), ["b"]);
        fs::write(dir.path().join("c"), "").expect("written");
        assert!(!listing.stands(dir.path()));
    }
}
