//! The opener: a thread that only opens. It watches folders, opens what appears at once, and hands the descriptors to
//! the readers without ever waiting for one. It never reads a log, waits for memory or for a sink, so a file
//! that is rotated away while everything else stands still is held, and is read later.
//!
//! Folders are watched by one inotify instance (names that come and go, and the end of writing, not writes). A folder that can not be watched
//! (limits, network file systems, no inotify) is looked at every 100 ms instead, said once. When the kernel's queue
//! overflows everything is looked at. Every 10 s anyway the list of folders is, and in each of them what the kernel might
//! not tell of ([`Folder::is_sure`]); the rest is once in five minutes, a part of it each time.
//!
//! It holds the newest generation of each chain itself, so that one's inode can not be used again, and what is newer is
//! certain. Limits: open files (the soft limit is raised to the hard one); a file that can not be opened is said once,
//! [`SAID_MAX`] in all, and tried again every 10 s.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::chain::{About, First, Notes, Seed};
use super::checkpoint::Checkpoints;
use super::generations::{Family, Handed, Held, Opened};
use super::identity::FileId;
use super::inotify::{self, Bell, Watcher};
use super::keeper::Chains;
use super::layout::{Known, Layout};
use super::listing::Listing;
use super::reader::{Line, News};
use super::standing::Standing;
use super::startup::Startup;
use super::{clock, disk, held, priority};
use crate::inputs::Outlet;
use crate::metrics::Health;
use crate::metrics::followed::{Generation, Watching};

mod about; // what is known of containers and files
mod ended; // chains
mod events;
mod folders;
mod kin;
mod listed;
mod successor; // of the newest generation, opened at once
mod unseen; // what a look can not know
mod waiting; // for a descriptor

use events::Told;
use kin::{Folder, Kin};
use listed::Listed;
use waiting::Waiting;

const POLL: Duration = Duration::from_millis(100);
const RESCAN: Duration = Duration::from_secs(10);
/// Of folders that the kernel surely tells of, a rescan looks at one in so many (10,000 a minute were 0.5 % of a core).
const SHARES: u64 = 30;
/// How long the first line of a new container waits for its name.
const ABOUT_WAIT: Duration = Duration::from_millis(500);
const SAID_MAX: usize = 1000;
/// What to do about something that is no file.
const NO_FILE_HINT: &str = "; move it away, or leave it out with `exclude`";
/// Looks of so many families at a time list their folder once.
const LISTED_ONCE: usize = 16;

/// See the header.
pub struct Opener {
    outlet: Outlet,
    input: String,
    layout: Box<dyn Layout>,
    lines: Vec<Line>,
    bell: Arc<Bell>,
    watcher: Option<Watcher>,
    folders: HashMap<PathBuf, Folder>,
    /// Families of folders that are away, while their chains go on: as many as have files open, and some whose chains have
    /// ended.
    orphans: HashMap<PathBuf, BTreeMap<String, Kin>>,
    /// Folders that were seen so far, and rescans.
    seen_folders: u64,
    rescans: u64,
    watches: HashMap<i32, PathBuf>,
    /// What the kernel told and nobody has looked at yet.
    told: Vec<Told>,
    /// Folders that were made, of what the kernel told.
    new_folders: Vec<PathBuf>,
    /// Files that were created, of what is being looked at: so many under that name.
    created: HashMap<(PathBuf, String), u64>,
    owners: HashMap<u64, (PathBuf, String)>,
    next_chain: u64,
    /// What can not be read, with the number of the rescan since which it was met last, and why: said once.
    said: BTreeMap<PathBuf, (u64, String)>,
    polls: bool,
    polled: Instant,
    rescanned: Instant,
    /// When all folders were asked for last, and how long that took.
    relisted: (Instant, Duration),
    /// All of them are known, as they were listed last.
    is_listed: bool,
    /// They were listed anew since each was held against what its path leads to.
    may_be_replaced: bool,
    said_polling: bool,
    said_deaf: bool,
    said_overflow: Option<Instant>,
    first_listing: bool,
    first_chains: usize,
    /// Families that wait, mostly until a descriptor is free, by their path.
    waiting: BTreeMap<PathBuf, Waiting>,
    listed: Listed,
    /// While many families are looked at.
    listing: Option<Listing>,
    /// Families to be looked at once their rotation has come to its end, by their path, and when.
    later: BTreeMap<PathBuf, (Family, Instant)>,
    /// What is looked at was there at the start.
    was_there: bool,
    /// When those that wait were tried last.
    waited: Instant,
    said_waiting: bool,
    /// Since when some family waits.
    waits_since: Option<Instant>,
    tail: bool,
    /// Metadata may come late: look again until then.
    about_again: Option<Instant>,
    startup: Arc<Startup>,
    chains: Arc<Chains>,
    hurry: bool,
}

/// What an opener is made with.
pub struct Setup {
    /// The way out, for counters and checkpoints.
    pub outlet: Outlet,
    /// The input's name.
    pub input: String,
    /// Its folders and names.
    pub layout: Box<dyn Layout>,
    /// Its readers.
    pub lines: Vec<Line>,
    /// Wakes it.
    pub bell: Arc<Bell>,
    /// `start = "tail"`, and this is the first start.
    pub tail: bool,
    /// The first message.
    pub startup: Arc<Startup>,
    /// Where the keeper finds its chains.
    pub chains: Arc<Chains>,
    /// Whether to ask for real-time priority.
    pub hurry: bool,
}

impl Opener {
    /// An opener that has looked at nothing yet.
    pub fn new(setup: Setup, watch: bool) -> Opener {
        let refused = || Err(io::Error::other("not wanted"));
        let watcher = if watch { Watcher::new() } else { refused() };
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(input = setup.input, %error, "no inotify; folders are looked at every 100 ms (see fs.inotify.max_user_instances)");
        });
        Opener {
            outlet: setup.outlet,
            input: setup.input,
            layout: setup.layout,
            lines: setup.lines,
            bell: setup.bell,
            said_polling: watcher.is_err(),
            watcher: watcher.ok(),
            said_deaf: false,
            said_overflow: None,
            folders: HashMap::new(),
            orphans: HashMap::new(),
            seen_folders: 0,
            rescans: 0,
            watches: HashMap::new(),
            told: Vec::new(),
            new_folders: Vec::new(),
            created: HashMap::new(),
            owners: HashMap::new(),
            next_chain: 0,
            said: BTreeMap::new(),
            polls: false,
            polled: clock::now(),
            rescanned: clock::now(),
            relisted: (clock::now(), Duration::ZERO),
            is_listed: false,
            may_be_replaced: false,
            first_listing: true,
            first_chains: 0,
            waiting: BTreeMap::new(),
            listed: Listed::default(),
            listing: None,
            later: BTreeMap::new(),
            was_there: false,
            waited: clock::now(),
            said_waiting: false,
            waits_since: None,
            tail: setup.tail,
            about_again: None,
            startup: setup.startup,
            chains: setup.chains,
            hurry: setup.hurry,
        }
    }

    /// Opens until the word to stop.
    pub fn run(mut self) {
        held::raise_limit();
        if self.hurry {
            priority::hurry(&self.input);
        }
        self.begin();
        while !self.outlet.once && !self.outlet.stop.is_set() {
            let timeout = self.patience();
            inotify::wait(&self.bell, self.watcher.as_ref(), timeout);
            self.bell.quiet();
            self.step();
        }
    }

    /// The first listing.
    pub(super) fn begin(&mut self) {
        self.rescan(true);
        while !self.waiting.is_empty() && self.outlet.once && !self.outlet.stop.is_set() {
            clock::pause(POLL / 5);
            self.let_go_of_ended();
            self.try_waiting();
        }
        self.first_listing = false;
        self.startup.listed(self.first_chains);
        if self.outlet.once {
            // The readers end once they have read what they were sent.
            for line in &self.lines {
                let _ = line.news.send(News::Listed);
                line.bell.ring();
            }
        }
        (self.polled, self.rescanned) = (clock::now(), clock::now());
    }

    /// So many families are remembered.
    #[cfg(test)]
    pub(super) fn families(&self) -> usize {
        self.folders.values().map(|folder| folder.families.len()).sum()
    }

    /// How long it need not look, if nothing happens.
    fn patience(&self) -> Duration {
        if !self.told.is_empty() {
            return Duration::ZERO;
        }
        let mut timeout = RESCAN.saturating_sub(clock::since(self.rescanned));
        if !self.waiting.is_empty() {
            timeout = timeout.min(POLL.saturating_sub(clock::since(self.waited)));
        }
        if self.polls {
            timeout = timeout.min(POLL.saturating_sub(clock::since(self.polled)));
        }
        if let Some(later) = self.next_later() {
            timeout = timeout.min(later.saturating_duration_since(clock::now()));
        }
        if let Some(again) = self.about_again {
            timeout = timeout.min(again.saturating_duration_since(clock::now()));
        }
        timeout
    }

    /// Looks at what happened, and at what is due. Never waits.
    pub(super) fn step(&mut self) {
        self.forget_ended();
        let overflow = self.events();
        self.look_now();
        if self.about_again.is_some_and(|again| again <= clock::now()) {
            self.about_again = None;
            self.all_about();
        }
        if !self.waiting.is_empty() && clock::since(self.waited) >= POLL {
            self.try_waiting();
        }
        if overflow || clock::since(self.rescanned) >= RESCAN {
            self.rescanned = clock::now();
            self.rescan(overflow);
        } else if self.polls && clock::since(self.polled) >= POLL {
            self.polled = clock::now();
            self.poll();
        }
    }

    fn list(&mut self, folder: &Path) {
        match self.layout.families(folder) {
            Ok(families) => {
                self.forget_all_but(folder, &families);
                self.list_once(families.len());
                families.into_iter().for_each(|family| self.look(family));
                self.listing = None;
            }
            Err(error) if disk::is_absent(&error) => {}
            Err(error) => self.say(folder, &error),
        }
    }

    /// The folders, and what is in them: all of it, or what the kernel may not tell of and a share of the rest.
    fn rescan(&mut self, all: bool) {
        self.rescans += 1;
        self.look_at_all(all);
        let (now, before) = (self.rescans, self.said.len());
        self.said.retain(|_, (met, _)| *met == now);
        if self.said.len() < before {
            self.tell_refused();
        }
    }

    fn look_at_all(&mut self, all: bool) {
        let share = self.rescans % SHARES;
        self.relist();
        self.unwatch_replaced(all, share);
        self.polls = false;
        // What can not be read is said as long as each look meets it.
        let refused: HashSet<&Path> =
            self.said.keys().flat_map(|path| [Some(&**path), path.parent()]).flatten().collect();
        let due = |path: &Path, folder: &Folder| {
            all || folder.number % SHARES == share || !folder.is_sure() || refused.contains(path)
        };
        let due = self.folders.iter().filter(|(path, folder)| due(path, folder));
        let mut folders: Vec<(u64, PathBuf)> = due.map(|(path, folder)| (folder.number, path.clone())).collect();
        folders.sort_unstable_by_key(|(number, _)| *number);
        for (_, path) in folders {
            if self.folders.get(&path).is_some_and(|folder| folder.watch.is_none()) {
                self.watch(&path);
                self.polls |= self.folders.get(&path).is_some_and(|folder| folder.polled);
            }
            if let Some(folder) = self.folders.get_mut(&path) {
                folder.families.values_mut().for_each(|kin| kin.published.sweep());
            }
            self.list(&path);
            self.about_of(&path);
            self.polls |= self.folders.get(&path).is_some_and(|folder| folder.families.values().any(|kin| kin.link));
        }
    }

    /// Opens what is new of a family.
    fn look(&mut self, family: Family) {
        self.look_on(family, Opened::default());
    }

    /// The same, beginning with what was opened already.
    fn look_on(&mut self, family: Family, opened: Opened) {
        let Some(folder) = self.folders.get_mut(&family.folder) else { return };
        let kin = folder.families.entry(family.base.clone()).or_insert_with(|| Kin::new(&family));
        self.polls |= kin.link;
        let now = clock::births();
        let is_held = kin.newest.as_ref().filter(|newest| !newest.is_given_up());
        if kin.left || is_held.is_some_and(|newest| family.is_unchanged(newest.id)) {
            kin.seen = now;
            return;
        }
        let met_before = is_held.is_some() && folder.polled && !kin.link;
        // Where nothing can be closed for it, or nothing will come later, it need not wait for that.
        let can_wait = folder.watch.is_some() && !self.outlet.once;
        // What was opened by then would be closed.
        let can_wait = can_wait && opened.certain.is_empty();
        if held::are_used_up() || kin.newest.is_none() && can_wait && held::are_scarce() {
            self.wait_for_descriptor(family);
            return;
        }
        // Where it goes on is known once what is under way of it has come to its end.
        let closing = |checkpoints: &Arc<Checkpoints>| checkpoints.is_closing(&self.input, &self.layout.key(&family));
        if kin.newest.is_none() && self.outlet.checkpoints.as_ref().is_some_and(closing) {
            self.wait(family);
            return;
        }
        let newest = is_held.map_or_else(|| kin.published.newest(), |newest| Some(newest.id));
        let find = |id| kin.published.get(id).filter(|held| !held.is_given_up());
        let certain: Vec<FileId> = opened.certain.iter().filter(|held| !held.gz).map(|held| held.id).collect();
        let opened = Opened { away: kin.away, ..opened };
        let mut scan = family.scan(&Handed::new(newest, &find), opened, self.listing.as_mut());
        kin.away = !scan.has_base && scan.fresh.is_empty();
        kin.packs |= scan.fresh.iter().any(|held| held.gz);
        let followed = &self.outlet.counters().followed;
        followed.watch(Watching::TornScan, scan.torn);
        let mut left_out: Vec<Arc<Held>> = Vec::new();
        // With a newest one that has lost its name the scan does not know where to end. A container's chain remembers what
        // it read. Of plain files it is what was made since. Of a compressed one nobody knows when that was, but it mostly has
        // the time of its plain one.
        let gone = kin.newest.as_ref().filter(|_| !scan.met_newest);
        if kin.again || gone.is_some() && !self.layout.ends_with_folder() {
            let changed = gone.and_then(|newest| newest.look().ok()).map_or(i64::MAX, |look| look.mtime);
            let is_newer = |held: &Held| match held.gz {
                true => held.look().is_ok_and(|look| look.mtime > changed.max(kin.seen)),
                false => scan.met_known || held.id.btime > kin.seen || certain.contains(&held.id),
            };
            left_out.extend(scan.fresh.extract_if(.., |held| *held.name != *family.base && !is_newer(held)));
            // An older one, whose writer went on beside the newest, has a late time, too: its chain knows what it reads.
            scan.fresh.iter().filter(|held| held.gz).for_each(|held| held.doubted.store(true, Relaxed));
        }
        let is_first = kin.newest.is_none();
        if is_first {
            // Rotated files that were there before their base are followed by themselves already.
            left_out.extend(scan.fresh.extract_if(.., |held| {
                let itself = folder.families.get(&*held.name).filter(|_| *held.name != *family.base);
                itself.and_then(|kin| kin.newest.as_ref()).is_some_and(|newest| newest.id == held.id)
            }));
        }
        // Of what comes and goes between two looks nobody is told; that the newest one is under none of its names says that it may be so.
        let passed_by = met_before && !scan.met_newest && !scan.fresh.is_empty();
        let refused = std::mem::take(&mut scan.refused);
        // What could be opened can not go on without what could not.
        if refused.iter().any(|(_, error)| is_limit(error)) {
            self.wait_for_descriptor(family);
            return;
        }
        // And what is older than the base can not be opened later. (Who reads once what there is does not wait for it.)
        let unlisted = refused.iter().find(|(path, _)| *path == family.folder);
        if let Some((path, error)) = unlisted.filter(|_| !self.outlet.once) {
            self.say(path, error);
            self.wait(family);
            return;
        }
        let base_is_refused = refused.iter().any(|(path, _)| *path == family.path());
        if base_is_refused {
            self.listed.remove(&family.path());
        }
        let since = self.since(&family.folder);
        // What was made in the same tick as that may be either.
        let may_be_told = |held: &&Arc<Held>| {
            let btime = held.id.btime;
            let is_new = !is_first || btime == 0 || since.is_none_or(|since| btime >= since);
            // That an old one got a second name is told, too.
            is_new || certain.contains(&held.id) || held.look().is_ok_and(|look| look.links > 1)
        };
        // A compressed file was not created under the base's name; one that can not be opened is said below.
        let mut opened = scan.fresh.iter().filter(|held| !held.gz).filter(may_be_told).count() as u64;
        opened += u64::from(base_is_refused);
        // What is older than the watch was not told of: no more than those that were by now.
        let told = if is_first { self.told_of(&family) } else { opened };
        opened = opened.min(told);
        self.count_opened(&family, opened);
        if passed_by {
            self.passed_by(&family);
        }
        if !scan.fresh.is_empty() {
            // Not before: what could not be handed out yet is new at the next look, too.
            if let Some(kin) = self.kin_of(&family.folder, &family.base) {
                kin.seen = now;
            }
            let left_out = left_out.iter().filter_map(|held| held.look().ok());
            let left_out = left_out.map(|look| look.mtime).max().unwrap_or(0);
            // No more than were told of: a chain that has ended may have read the others.
            let told_of = usize::try_from(told.saturating_sub(u64::from(base_is_refused))).unwrap_or(usize::MAX);
            let most = certain.len().max(told_of);
            // What is in a compressed one may be older than that is. Where no file says when it was made, what was told does.
            let is_new = |held: &Held| held.id.btime == 0 || since.is_none_or(|since| held.id.btime > since);
            let is_made = |held: &&Arc<Held>| certain.contains(&held.id) || !held.gz && is_new(held);
            let made = scan.fresh.iter().rev().take(most).take_while(is_made).count();
            let notes = Notes { made, stand_ins: told - opened, changed: scan.base_changed, left_out };
            self.publish(&family, scan.fresh, notes);
        }
        for (path, error) in refused {
            self.say(&path, &error);
        }
    }

    fn publish(&mut self, family: &Family, fresh: Vec<Arc<Held>>, notes: Notes) {
        let known = self.layout.about(family);
        let Some(kin) = self.folders.get_mut(&family.folder).and_then(|f| f.families.get_mut(&family.base)) else {
            return;
        };
        let (about, not_before) = match known {
            Known::Leave => {
                kin.left = true;
                self.listed.remove(&family.path());
                return;
            }
            Known::Sure(about) => {
                kin.named = true;
                (about, None)
            }
            Known::Maybe(about) => (about, (!self.first_listing).then(|| clock::now() + ABOUT_WAIT)),
        };
        if let Some(until) = not_before {
            // Well before the wait is over, should no event tell.
            self.about_again = Some(until - ABOUT_WAIT / 5);
        }
        kin.newest = fresh.last().cloned();
        kin.again = false;
        self.outlet.counters().followed.generation(Generation::Opened, fresh.len() as u64);
        if let (Some(chain), Some(standing)) = (kin.chain, &kin.standing) {
            let standing = Arc::clone(standing);
            standing.add(&fresh);
            kin.published.add(&fresh, 0);
            self.listed.are_read(&fresh);
            self.hand(chain, &standing, fresh);
            return;
        }
        let chain = self.next_chain;
        self.next_chain += 1;
        kin.chain = Some(chain);
        kin.about = Some(about.clone());
        let key = self.layout.key(family);
        let standing = Standing::new(&self.outlet.metrics, self.outlet.input, &key, &name_of(&about));
        standing.describe(&name_of(&about), self.layout.space(family));
        standing.add(&fresh);
        self.chains.add(&standing);
        kin.standing = Some(Arc::clone(&standing));
        let saved = self.outlet.checkpoints.as_ref().and_then(|checkpoints| checkpoints.lookup(&self.input, &key));
        // Files that appear later are read from their head, whatever `start` says.
        let is_passed_over = self.tail && self.was_there(&family.path());
        let first = match is_passed_over {
            false => self.layout.first(family),
            true if notes.made == 0 => First::Tail,
            true => First::Newest,
        };
        self.owners.insert(chain, (family.folder.clone(), family.base.clone()));
        self.first_chains += usize::from(self.first_listing);
        // Of those that a glob does not match only what follows a checkpoint's place is read.
        let unread = if saved.is_some() { 0 } else { first.among(fresh.len(), notes.made) };
        if let Some(kin) = self.kin_of(&family.folder, &family.base) {
            kin.published.add(&fresh, unread);
        }
        if !is_passed_over {
            self.tell_of_unread(family, &fresh[..unread]);
        }
        self.listed.are_read(&fresh[unread..]);
        let seed = Box::new(Seed {
            key,
            about,
            generations: fresh,
            saved,
            first,
            not_before,
            standing,
            family: family.clone(),
            notes,
        });
        self.send(chain, News::Found { chain, seed, first: self.first_listing });
    }

    /// So many looks are taken now, until `listing` is nothing again.
    fn list_once(&mut self, looks: usize) {
        self.listing = (looks >= LISTED_ONCE).then(Listing::default);
    }

    /// Hands generations to a chain's reader; none, if it has something to count.
    fn hand(&self, chain: u64, standing: &Standing, generations: Vec<Arc<Held>>) {
        if standing.hand(generations) {
            self.send(chain, News::More { chain });
        }
        // After it: or the reader might call it a rest in between, and the keeper would not look.
        standing.stir();
    }

    fn send(&self, chain: u64, news: News) {
        let line = &self.lines[(chain % self.lines.len() as u64) as usize];
        // Fails only when the reader has ended: then we are about to.
        let _ = line.news.send(news);
        line.bell.ring();
    }

    fn say(&mut self, path: &Path, error: &io::Error) {
        if let Some((met, _)) = self.said.get_mut(path) {
            *met = self.rescans;
            return;
        }
        if self.said.len() >= SAID_MAX {
            return;
        }
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => self.layout.denied_hint(),
            io::ErrorKind::InvalidInput => NO_FILE_HINT,
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => NO_FILE_HINT,
            _ => "",
        };
        tracing::error!(input = self.input, path = %path.display(), %error, "can not be read and is left out{hint}");
        self.said.insert(path.to_owned(), (self.rescans, format!("{error}{hint}")));
        self.tell_refused();
    }

    fn tell_refused(&self) {
        let (metrics, check) = (&self.outlet.metrics, format!("input {}", self.input));
        match self.said.first_key_value() {
            Some((path, (_, why))) => {
                let reason = format!("{} files can not be read, such as {}: {why}", self.said.len(), path.display());
                metrics.check(&check, Health::Warn, reason);
            }
            None => metrics.uncheck(&check),
        }
    }
}

/// No more files can be opened by this process, or on this machine.
fn is_limit(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// What people call it: the container's name or id, or the file's path.
fn name_of(about: &About) -> String {
    let origin = &about.origin;
    let container = origin.container.as_ref().map(|container| container.name_or_id().to_owned());
    container.or_else(|| origin.file.clone()).unwrap_or_default()
}
