//! The generations of one followed name (`x`, `x.1`, `x.2.gz`, ...) and a consistent look at them.
//!
//! Files shift while they are looked at, so a scan works like a sequence lock: open from the newest to the oldest
//! (files shift towards the reader: one is seen twice, none is missed), look at the base again, and take the set only
//! if it is the same file as before. Torn scans are repeated; what they opened is kept, since it may be gone by then.
//!
//! Names: `<base>`, `<base>.N`, `<base>.N.gz`; for plain files also `<base>-<date>` and `<base>.<date>` as logrotate's
//! `dateext` writes them, and `<base>.0`, newer than `.1`, as savelog and logrotate's `start 0` do. A plain file wins
//! over its `.gz`, which is still growing or torn. FIFOs, devices and folders are refused without being opened for
//! reading.
//!
//! Limits: numbers up to [`NUMBER_MAX`]; [`TRIES_MAX`] torn scans, then what was seen is taken as it is.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;

pub use super::held::Held;
use super::identity::{self, FileId, Look};
use super::listing::Listing;
use super::{clock, disk, held};

/// The highest generation number that is looked at.
pub const NUMBER_MAX: u32 = 9999;
/// Torn scans in a row, at most. A writer at full speed with tiny files tears some hundred a second.
const TRIES_MAX: usize = 1000;

/// Opens a regular file for reading; never waits for a FIFO, never follows a device.
///
/// # Errors
/// `InvalidInput` with the reason for everything that is no regular file.
pub fn open(path: &Path) -> io::Result<Arc<Held>> {
    // Opening a FIFO would wake its writer, opening a device can do anything: look first, and again once it is held.
    regular(identity::look_at(path)?)?;
    let file = disk::open(path)?;
    let look = identity::look(&file)?;
    regular(look)?;
    Ok(Held::new(file, look.id, path))
}

fn regular(look: Look) -> io::Result<()> {
    let kind = match look.kind {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "folder",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "special file",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is a {kind}, not a regular file")))
}

/// A name that is followed through its generations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// The folder.
    pub folder: PathBuf,
    /// The name that is written to.
    pub base: String,
    /// Whether older generations with a date in their name count too (logrotate's `dateext`), and one with the number 0.
    pub dated: bool,
}

/// What a name is within a family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Member {
    Base,
    Numbered(u32),
    Dated(String),
}

/// The base of a rotated name: `x.log` of `x.log.1`, `x.log.2.gz`, `x.log-20261124.gz`; the name itself otherwise.
pub fn base_of(name: &str) -> &str {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let cuts = || plain.match_indices(['.', '-']).map(|(at, _)| at).filter(|at| *at > 0);
    // The whole date first: its last part would pass for a number.
    let dated = cuts().find(|at| is_date(&plain[at + 1..]));
    let numbered =
        || cuts().next_back().filter(|at| plain.as_bytes()[*at] == b'.' && number(&plain[at + 1..]).is_some());
    dated.or_else(numbered).map_or(name, |at| &plain[..at])
}

/// The number of a generation, as rotation writes it: `01` and what is too large are parts of somebody's name.
fn number(suffix: &str) -> Option<u32> {
    let digits = (suffix == "0" || !suffix.starts_with('0')) && suffix.bytes().all(|byte| byte.is_ascii_digit());
    suffix.parse().ok().filter(|number| digits && *number <= NUMBER_MAX)
}

/// 8 digits or more, with `-`, `_`, `T`, `:` within.
fn is_date(suffix: &str) -> bool {
    suffix.len() >= 8
        && suffix.bytes().filter(u8::is_ascii_digit).count() >= 8
        && suffix.bytes().all(|byte| byte.is_ascii_digit() || b"-_T:".contains(&byte))
}

/// A consistent set.
#[derive(Debug, Default)]
pub struct Scan {
    /// Generations that the caller does not know, oldest first.
    pub fresh: Vec<Arc<Held>>,
    /// Torn scans before this one: the base changed meanwhile.
    pub torn: u64,
    /// Files that could not be opened, once each; the folder, if it could not be listed.
    pub refused: Vec<(PathBuf, io::Error)>,
    /// Whether the base exists.
    pub has_base: bool,
    /// Whether a known generation was met; if not, none has a name any more.
    pub met_known: bool,
    /// Whether the newest of them was.
    pub met_newest: bool,
    /// When the base was changed last, before the older ones were looked at; nanoseconds since 1970.
    pub base_changed: i64,
}

/// The generations that the caller of a scan holds: as many as a dead sink makes it hold, so they are asked for, not listed.
pub struct Handed<'a> {
    newest: Option<FileId>,
    find: &'a dyn Fn(FileId) -> Option<Arc<Held>>,
    /// Those that were met, held for the time of the scan: an inode that is let go may be another file's a moment later.
    met: RefCell<Vec<Arc<Held>>>,
}

impl<'a> Handed<'a> {
    /// The newest of them, and how one is found.
    pub fn new(newest: Option<FileId>, find: &'a dyn Fn(FileId) -> Option<Arc<Held>>) -> Handed<'a> {
        Handed { newest, find, met: RefCell::default() }
    }

    /// None at all.
    pub fn none() -> Handed<'static> {
        Handed::new(None, &|_| None)
    }

    fn get(&self, id: FileId) -> Option<Arc<Held>> {
        let mut met = self.met.borrow_mut();
        if let Some(held) = met.iter().find(|held| held.id == id) {
            return Some(Arc::clone(held));
        }
        let held = (self.find)(id)?;
        met.push(Arc::clone(&held));
        Some(held)
    }

    fn has(&self, id: FileId) -> bool {
        self.get(id).is_some()
    }
}

/// What was opened before a scan, by base name and number.
#[derive(Default)]
pub struct Opened {
    /// While no name shifted, newest first.
    pub certain: Vec<Arc<Held>>,
    /// While they did, last.
    pub doubtful: Option<Arc<Held>>,
    /// The look before found no base, and nothing new: it need not be waited for.
    pub away: bool,
}

/// What one pass saw, newest first.
#[derive(Default)]
struct Pass {
    seen: Vec<Arc<Held>>,
    /// Opened while the base changed.
    doubtful: Option<Arc<Held>>,
    /// Stopped at a generation that the caller knows: all older ones are known too.
    met_known: bool,
    has_base: bool,
    base_changed: i64,
    /// The base stayed the same all the time.
    whole: bool,
}

/// What a name led to.
enum Taken {
    Nothing,
    /// A file, though perhaps not one that can be read, and when it was changed.
    Seen(Option<FileId>, i64),
}

impl Family {
    /// The path of the base.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.base)
    }

    /// The path of a numbered generation.
    pub fn numbered(&self, number: impl std::fmt::Display) -> PathBuf {
        self.folder.join(format!("{}.{number}", self.base))
    }

    /// Whether a name belongs to this family.
    pub fn owns(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    fn member(&self, name: &str) -> Option<(Member, bool)> {
        let rest = name.strip_prefix(self.base.as_str())?;
        if rest.is_empty() {
            return Some((Member::Base, false));
        }
        let (plain, gz) = match rest.strip_suffix(".gz") {
            Some(plain) => (plain, true),
            None => (rest, false),
        };
        if let Some(number) = plain.strip_prefix('.').and_then(number).filter(|number| *number > 0 || self.dated) {
            return Some((Member::Numbered(number), gz));
        }
        let date = plain.strip_prefix(['.', '-']).filter(|date| self.dated && is_date(date))?;
        Some((Member::Dated(date.to_owned()), gz))
    }

    /// Whether the base is the file that the caller knows as the newest generation: then nothing is new. Only right
    /// while the caller holds that file.
    pub fn is_unchanged(&self, newest: FileId) -> bool {
        identity::look_at(&self.path()).is_ok_and(|look: Look| look.id == newest)
    }

    /// Opens what is there and not known yet. `known` are the generations that the caller holds: their
    /// inodes can not be used again, and a look ends at the first of them, for what is older was there before. `opened`
    /// is what was opened just now. Names are taken from the `listing`, if there is one, where that is as good.
    pub fn scan(&self, known: &Handed<'_>, opened: Opened, mut listing: Option<&mut Listing>) -> Scan {
        let mut scan = Scan::default();
        // What each look saw while the base stayed the same, newest first.
        let mut passes: Vec<Vec<Arc<Held>>> = vec![opened.certain];
        let opened_away = opened.away;
        // What was opened while the base changed: it may be as old as its name says, or newer than all.
        let mut doubtful: Vec<(usize, Arc<Held>)> = opened.doubtful.map(|held| (0, held)).into_iter().collect();
        let mut again = false;
        for attempt in 0..TRIES_MAX {
            let held: Vec<&Arc<Held>> = passes.iter().flatten().chain(doubtful.iter().map(|(_, held)| held)).collect();
            let pass = self.pass(known, &held, &mut scan.refused, listing.as_deref_mut());
            let nothing_new = || pass.seen.iter().all(|seen| known.has(seen.id));
            let done = pass.whole && (pass.has_base || attempt >= 3 || opened_away && attempt == 0 && nothing_new());
            (scan.has_base, scan.base_changed) = (pass.has_base, pass.base_changed);
            scan.met_known |= pass.met_known;
            doubtful.extend(pass.doubtful.map(|held| (passes.len(), held)));
            passes.push(pass.seen);
            if done {
                break;
            }
            again = true;
            scan.torn += u64::from(!pass.whole);
            scan.refused.clear();
            if !pass.has_base {
                // Between two renames the base is absent for a tenth of a millisecond.
                clock::pause(Duration::from_micros(200));
            }
        }
        let mut order = merge(&passes);
        for (pass, held) in doubtful {
            let guess = insert_doubtful(&mut order, Arc::clone(&held), &passes[pass]);
            held.doubted.fetch_or(guess, Relaxed);
        }
        // What an earlier look met may have lost its name since.
        let last = passes.last().map_or(&[][..], Vec::as_slice);
        scan.met_newest = known.newest.is_some_and(|newest| last.iter().any(|held| held.id == newest));
        let is_known = |held: &Arc<Held>| known.has(held.id);
        if let Some(at) = order.iter().rposition(is_known) {
            order.drain(..=at);
        }
        // A copy that one look met stands for a plain file that another one met.
        if again && order.iter().any(|held| held.gz) {
            order.iter().for_each(|held| held.doubted.store(true, Relaxed));
        }
        scan.fresh = order;
        scan
    }

    /// The older generations that have a name now, newest first. Names may shift meanwhile: looked at until two looks
    /// saw the same; what only an earlier one saw is the oldest.
    pub fn copies(&self, mut listing: Option<&mut Listing>) -> Vec<Arc<Held>> {
        let mut seen: Vec<Arc<Held>> = Vec::new();
        let mut last: Option<Vec<FileId>> = None;
        for _ in 0..TRIES_MAX {
            let mut look = self.copies_once(listing.as_deref_mut());
            // One that shifted during the look was met under both names.
            let mut met = HashSet::new();
            look.retain(|held| met.insert(held.id));
            let ids: Vec<FileId> = look.iter().map(|held| held.id).collect();
            let same = last.as_ref() == Some(&ids);
            last = Some(ids);
            seen.retain(|held| look.iter().all(|newer| newer.id != held.id));
            look.append(&mut seen);
            seen = look;
            if same {
                break;
            }
        }
        seen
    }

    fn copies_once(&self, listing: Option<&mut Listing>) -> Vec<Arc<Held>> {
        let (mut numbers, dates) = self.list(listing).unwrap_or_default();
        numbers.sort_unstable();
        let numbered = numbers.into_iter().map(|number| format!("{}.{number}", self.base));
        let dated = dates.into_iter().map(|name| name.strip_suffix(".gz").map_or(name.clone(), str::to_owned));
        let names = numbered.chain(dated).flat_map(|plain| [format!("{plain}.gz"), plain]);
        names.filter_map(|name| open(&self.folder.join(name)).ok()).collect()
    }

    /// Opens the older generations that are asked for, by who they are and how long. Those that can not be opened are
    /// errors, and so is a folder that can not be listed.
    pub fn open_those(&self, wanted: impl Fn(FileId, u64) -> bool) -> Vec<io::Result<Arc<Held>>> {
        let names = match disk::list(&self.folder) {
            Ok(names) => names.into_iter(),
            Err(error) => return vec![Err(error)],
        };
        let older = names.filter(|name| name.to_str().is_some_and(|name| name != self.base && self.owns(name)));
        older
            .map(|name| self.folder.join(name))
            .filter(|path| identity::look_at(path).is_ok_and(|look| wanted(look.id, look.size)))
            .map(|path| open(&path))
            .filter(|opened| !opened.as_ref().is_err_and(disk::is_absent))
            .collect()
    }

    /// One look from the newest to the oldest. After each file the base is looked at again: as long as it is the same,
    /// no file has shifted, and what was seen is in order.
    fn pass(
        &self,
        known: &Handed<'_>,
        earlier: &[&Arc<Held>],
        refused: &mut Vec<(PathBuf, io::Error)>,
        listing: Option<&mut Listing>,
    ) -> Pass {
        let mut pass = Pass::default();
        // Without a base (in the middle of a rotation, or removed) the older ones are looked at all the same: what an
        // earlier torn look saw must not come without what is older than it.
        let base = match self.take(&self.base, known, earlier, &mut pass, refused) {
            Taken::Nothing => None,
            Taken::Seen(id, changed) => {
                (pass.has_base, pass.base_changed) = (true, changed);
                id
            }
        };
        if pass.met_known {
            return Pass { whole: true, ..pass };
        }
        let id_of = |path: &Path| identity::look_at(path).ok().map(|look| look.id);
        // Without a base a whole rotation may pass between two looks that find none: then `.1` (or `.0`) is another one.
        let first_paths = [self.numbered(1), self.numbered(0)];
        let firsts =
            || first_paths.iter().take(1 + usize::from(self.dated)).map(|path| id_of(path)).collect::<Vec<_>>();
        let first = base.is_none().then(firsts);
        let base_stays = || id_of(&self.path()) == base && first.as_ref().is_none_or(|first| firsts() == *first);
        let (numbers, dates) = self.list(listing).unwrap_or_else(|error| {
            if !disk::is_absent(&error) {
                refused.push((self.folder.clone(), error));
            }
            Default::default()
        });
        let last = numbers.iter().max().copied().unwrap_or(0);
        let newest = u32::from(!numbers.contains(&0));
        // One beyond the last: it may have shifted since the listing.
        let numbered =
            (newest..=last.saturating_add(1).min(NUMBER_MAX)).map(|number| format!("{}.{number}", self.base));
        // A plain one may be compressed by the time it is opened.
        let dated = dates.into_iter().map(|name| {
            let is_plain = !name.ends_with(".gz");
            (name, is_plain)
        });
        let names = numbered.map(|name| (name, true)).chain(dated);
        for (name, has_gz) in in_order(names) {
            let before = pass.seen.len();
            if matches!(self.take(&name, known, earlier, &mut pass, refused), Taken::Nothing) && has_gz {
                self.take(&format!("{name}.gz"), known, earlier, &mut pass, refused);
            }
            if !base_stays() {
                if pass.seen.len() > before {
                    pass.doubtful = pass.seen.pop();
                }
                pass.met_known = false;
                return pass;
            }
            if pass.met_known {
                break;
            }
        }
        pass.whole = base_stays();
        pass
    }

    /// Opens one name, unless it is held already.
    fn take(
        &self,
        name: &str,
        known: &Handed<'_>,
        earlier: &[&Arc<Held>],
        pass: &mut Pass,
        refused: &mut Vec<(PathBuf, io::Error)>,
    ) -> Taken {
        let path = self.folder.join(name);
        let looked = identity::look_at(&path).ok();
        let is_it = |held: &&Arc<Held>| looked.is_some_and(|look| look.id == held.id);
        let seen = || earlier.iter().copied().chain(&pass.seen).find(is_it).map(Arc::clone);
        let held = looked.and_then(|look| known.get(look.id)).or_else(seen);
        // Of what is left of the descriptors none is for a look; a name that is absent needs none.
        let is_refused = looked.is_some() && held::are_used_up();
        let open = || if is_refused { Err(Errno::MFILE.into()) } else { open(&path) };
        match held.map_or_else(open, Ok) {
            Ok(held) => {
                let id = held.id;
                // One that is parked and has another name now is about to go.
                if *held.name != *name && held.is_parked() {
                    let _ = held.file_at(&path);
                }
                pass.met_known |= known.has(id);
                // Seen before in this look: it has shifted meanwhile, which the base will tell.
                if !pass.seen.iter().any(|seen| seen.id == id) {
                    pass.seen.push(held);
                }
                Taken::Seen(Some(id), looked.map_or(0, |look| look.mtime))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Taken::Nothing,
            Err(error) => {
                refused.push((path, error));
                Taken::Seen(looked.map(|look| look.id), 0)
            }
        }
    }

    /// Numbers that are there, and dated names, newest first (a plain file before its `.gz`, which is left out).
    fn list(&self, listing: Option<&mut Listing>) -> io::Result<(Vec<u32>, Vec<String>)> {
        let (mut numbers, mut dates) = (Vec::new(), Vec::<(String, bool, String)>::new());
        let take = |name: &str| match self.member(name) {
            Some((Member::Base, _)) | None => {}
            Some((Member::Numbered(number), _)) => numbers.push(number),
            Some((Member::Dated(date), gz)) => dates.push((date, gz, name.to_owned())),
        };
        match listing {
            Some(listing) => {
                listing.beginning_with(&self.folder, &self.base)?.iter().map(String::as_str).for_each(take);
            }
            None => disk::list(&self.folder)?.iter().filter_map(|name| name.to_str()).for_each(take),
        }
        dates.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        dates.dedup_by(|b, a| a.0 == b.0);
        Ok((numbers, dates.into_iter().map(|(_, _, name)| name).collect()))
    }
}

/// From the newest to the oldest.
#[cfg(not(test))]
fn in_order<T>(names: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    names
}

#[cfg(test)]
use reversed::in_order;
#[cfg(test)]
pub use reversed::set_reversed;

/// The wrong way round, for a negative control of the simulation.
#[cfg(test)]
mod reversed {
    use std::cell::Cell;

    thread_local!(static REVERSED: Cell<bool> = const { Cell::new(false) });

    /// Whether this thread's scans go from the oldest to the newest.
    pub fn set_reversed(reversed: bool) {
        REVERSED.set(reversed);
    }

    pub fn in_order<T>(names: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        let mut names: Vec<T> = names.collect();
        if REVERSED.get() {
            names.reverse();
        }
        names.into_iter()
    }
}

/// One order, oldest first, of all that the passes saw.
///
/// Each pass is in order, and what two passes saw ties them together. What only an earlier one saw has lost its name
/// since: as the oldest of all, or because it was compressed, with its copy now in its place. So a file that is new in
/// a pass goes before the next newer one that was seen before, and what is gone stays where it was. Where compressed
/// copies are among them that is a guess, and the chain looks into the files (`chain/order.rs`).
fn merge(passes: &[Vec<Arc<Held>>]) -> Vec<Arc<Held>> {
    let mut order: Vec<Arc<Held>> = Vec::new();
    for pass in passes {
        // From the newest on: where the next newer one stands.
        let mut before = order.len();
        for held in pass {
            match order.iter().position(|seen| seen.id == held.id) {
                Some(at) => before = at,
                None => order.insert(before, Arc::clone(held)),
            }
        }
    }
    order
}

/// Places what a pass opened while the base changed, unless a later pass has placed it. If its name was
/// right, it is older than all of its pass; if several rotations fell between two calls, it is newer. Birth times tell,
/// but for their ticks; of a compressed file they say nothing. True when nothing but a guess was left.
///
/// A pass that saw nothing before it began without a base: then the newest one had just been renamed, and what was
/// opened is that one or a newer one. So it is newer than all that was seen until then, and no guess.
fn insert_doubtful(order: &mut Vec<Arc<Held>>, held: Arc<Held>, pass: &[Arc<Held>]) -> bool {
    if order.iter().any(|seen| seen.id == held.id) {
        return false;
    }
    let Some(oldest) = pass.last().and_then(|oldest| order.iter().position(|seen| seen.id == oldest.id)) else {
        let until = order.iter().rposition(|seen| seen.number < held.number);
        order.insert(until.map_or(0, |at| at + 1), held);
        return false;
    };
    let born = |held: &Held| (!held.gz && held.id.btime > 0).then_some(held.id.btime);
    let Some(at) = born(&held) else {
        order.insert(oldest, held);
        return true;
    };
    let newer = |seen: &&Arc<Held>| born(seen).is_some_and(|born| born < at);
    let tie = order.iter().any(|seen| born(seen) == Some(at));
    let after = order.iter().rposition(|seen| newer(&seen)).filter(|after| *after >= oldest);
    order.insert(after.map_or(oldest, |after| after + 1), held);
    tie
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use super::*;

    fn family(folder: &Path) -> Family {
        Family { folder: folder.to_owned(), base: "c-json.log".to_owned(), dated: false }
    }

    /// A scan by who holds these, oldest first.
    fn scan_after(family: &Family, known: &[Arc<Held>]) -> Scan {
        let find = |id| known.iter().find(|held| held.id == id).map(Arc::clone);
        family.scan(&Handed::new(known.last().map(|held| held.id), &find), Opened::default(), None)
    }

    fn put(folder: &Path, name: &str) {
        fs::write(folder.join(name), name).expect("written");
    }

    fn names(scan: &Scan) -> Vec<&str> {
        scan.fresh.iter().map(|held| &*held.name).collect()
    }

    #[test]
    fn generations_come_oldest_first_and_other_files_do_not_come() {
        let dir = tempfile::tempdir().expect("a temp dir");
        for name in [
            "c-json.log",
            "c-json.log.1",
            "c-json.log.2.gz",
            "c-json.log.10",
            "c-json.log.2.gz.tmp",
            "c-json.logx",
            "config.v2.json",
        ] {
            put(dir.path(), name);
        }
        let scan = family(dir.path()).scan(&Handed::none(), Opened::default(), None);
        assert_eq!(names(&scan), ["c-json.log.10", "c-json.log.2.gz", "c-json.log.1", "c-json.log"]);
        assert!(scan.has_base && scan.refused.is_empty());
    }

    #[test]
    fn a_plain_generation_wins_over_its_gz() {
        let dir = tempfile::tempdir().expect("a temp dir");
        for name in ["c-json.log", "c-json.log.1", "c-json.log.1.gz"] {
            put(dir.path(), name);
        }
        assert_eq!(
            names(&family(dir.path()).scan(&Handed::none(), Opened::default(), None)),
            ["c-json.log.1", "c-json.log"]
        );
    }

    #[test]
    fn only_what_is_newer_than_the_known_one_is_fresh() {
        let dir = tempfile::tempdir().expect("a temp dir");
        put(dir.path(), "c-json.log.1");
        put(dir.path(), "c-json.log");
        let f = family(dir.path());
        let first = f.scan(&Handed::none(), Opened::default(), None);
        let newest = first.fresh.last().expect("two").id;
        assert!(f.is_unchanged(newest));
        fs::rename(dir.path().join("c-json.log.1"), dir.path().join("c-json.log.2")).expect("renamed");
        fs::rename(dir.path().join("c-json.log"), dir.path().join("c-json.log.1")).expect("renamed");
        put(dir.path(), "c-json.log");
        assert!(!f.is_unchanged(newest));
        assert_eq!(names(&scan_after(&f, &first.fresh)), ["c-json.log"]);
    }

    #[test]
    fn a_fifo_and_a_folder_are_refused_with_the_reason() {
        let dir = tempfile::tempdir().expect("a temp dir");
        fs::create_dir(dir.path().join("c-json.log")).expect("made");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("c-json.log.1"),
            FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .expect("made");
        let scan = family(dir.path()).scan(&Handed::none(), Opened::default(), None);
        let reasons: Vec<String> = scan.refused.iter().map(|(_, error)| error.to_string()).collect();
        assert_eq!(reasons, ["is a folder, not a regular file", "is a FIFO, not a regular file"]);
    }

    #[test]
    fn rotated_names_lead_to_their_base() {
        for (name, base) in [
            ("a.log", "a.log"),
            ("a.log.1", "a.log"),
            ("a.log.12.gz", "a.log"),
            ("a.log-20261124", "a.log"),
            ("a.log-20261124.gz", "a.log"),
            ("0.log.20261124-101500", "0.log"),
            ("a.0", "a"),
            // No rotation writes these.
            ("a-1", "a-1"),
            ("a.00", "a.00"),
            ("a.01", "a.01"),
            ("a-2026", "a-2026"),
            ("a.10000", "a.10000"),
            ("a.1.2", "a.1"),
            ("a.log-2026-11-24", "a.log"),
            ("2026-11-24.log", "2026-11-24.log"),
            ("app.log.gz", "app.log.gz"),
            (".1", ".1"),
        ] {
            assert_eq!(base_of(name), base, "{name}");
            let family = Family { folder: PathBuf::new(), base: base.to_owned(), dated: true };
            assert!(family.owns(name), "{name}, or nobody would open it");
        }
    }

    #[test]
    fn a_generation_that_is_compressed_during_a_scan_keeps_its_place() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let held = |name: &str| {
            put(dir.path(), name);
            open(&dir.path().join(name)).expect("opens")
        };
        let [old, x, gz, base, newer] = ["3", "1", "2.gz", "0", "n"].map(held);
        let ids = |order: &[Arc<Held>]| order.iter().map(|held| held.name.to_string()).collect::<Vec<String>>();
        let passes = || {
            let newest_first = [vec![&base, &x, &old], vec![&newer, &base, &gz, &old]];
            newest_first.map(|pass| pass.into_iter().map(Arc::clone).collect::<Vec<_>>()).to_vec()
        };
        assert_eq!(ids(&merge(&passes())), ["3", "1", "2.gz", "0", "n"]);
        // All that the first pass saw is gone.
        let passes = vec![vec![Arc::clone(&x), Arc::clone(&old)], vec![Arc::clone(&newer), Arc::clone(&base)]];
        assert_eq!(ids(&merge(&passes)), ["3", "1", "0", "n"]);
        // Opened while the base changed: its name says that it is the oldest, and so it is if nothing tells better.
        let mut order = merge(&passes);
        assert!(insert_doubtful(&mut order, Arc::clone(&gz), &passes[0]));
        assert_eq!(ids(&order), ["2.gz", "3", "1", "0", "n"]);
        assert!(!insert_doubtful(&mut order, Arc::clone(&gz), &passes[0]), "it has its place already");
        // Opened by a look that began without a base: newer than all that was opened before, older than what came then.
        let [late, after] = ["w", "y"].map(held);
        let mut order = vec![Arc::clone(&old), Arc::clone(&base), after];
        assert!(!insert_doubtful(&mut order, late, &[]), "that is no guess");
        assert_eq!(ids(&order), ["3", "0", "w", "y"]);
    }

    #[test]
    fn generations_are_seen_in_order_while_a_writer_rotates() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let folder = dir.path().to_owned();
        let writer = std::thread::spawn(move || {
            for n in 0..600 {
                // Four generations stay, so the scan below has time.
                for old in (1..4).rev() {
                    let (from, to) = (format!("c-json.log.{old}"), format!("c-json.log.{}", old + 1));
                    let _ = fs::rename(folder.join(from), folder.join(to));
                }
                let _ = fs::rename(folder.join("c-json.log"), folder.join("c-json.log.1"));
                let mut file = File::create(folder.join("c-json.log")).expect("created");
                writeln!(file, "{n}").expect("written");
                drop(file);
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let f = family(dir.path());
        let mut all: Vec<Arc<Held>> = Vec::new();
        while !writer.is_finished() {
            let scan = scan_after(&f, &all);
            all.extend(scan.fresh);
        }
        writer.join().expect("wrote");
        let numbers: Vec<u32> = all
            .iter()
            .filter_map(|held| io::read_to_string(&*held.file().expect("held")).expect("read").trim().parse().ok())
            .collect();
        assert!(numbers.len() > 100, "{} generations seen", numbers.len());
        assert!(numbers.is_sorted(), "generations came out of order");
    }
}
