//! The model of a writer: Docker's json-file driver with its rotation, or a program whose files logrotate rotates
//! (`logrotate.rs`), one step (one call to the kernel) at a time, on real files. It knows of every line whether a reader
//! could have had it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::super::record_at;
use super::disk;

mod copytruncate;
mod kubelet;
mod logrotate;

pub use kubelet::Kubelet;
pub use logrotate::Logrotate;

pub const BASE: &str = "c-json.log";

/// What a call takes beside a program that logrotate serves: no two changes there are of one moment.
pub const CALL: Duration = Duration::from_micros(1);

/// One step of a rotation or of a line.
#[derive(Debug)]
enum Step {
    Remove(String),
    Rename(String, String),
    Create,
    Truncate,
    /// The next bytes of a compressed file, in place and under its final name.
    Pack(Vec<u8>),
    /// The rest of a line.
    Rest(String),
    /// Of logrotate.
    Other(logrotate::Step),
    Kubelet(kubelet::Step),
}

/// The lines of one generation.
#[derive(Debug, Default)]
struct Generation {
    lines: Vec<u64>,
    bytes: Vec<u8>,
    /// The reader has opened it, by any of its names, in this life.
    opened: bool,
    /// It lost its last name, and was not open then.
    missed: bool,
}

/// How a container rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// `max-file` of two and more.
    Shift(u32),
    /// The same with `compress=true`.
    Pack(u32),
    /// `max-file=1` since 23.0: unlinked and made anew.
    Unlink,
    /// `max-file=1` of 20.10: renamed over `.1` all the same.
    Over,
    /// `max-file=1` up to 19.03: truncated in place.
    Truncate,
    /// By logrotate.
    Other(Logrotate),
    /// By kubelet.
    Kubelet(Kubelet),
}

impl Rotation {
    /// Whether another program rotates, run by a timer, while the one that writes goes on.
    pub fn is_served(self) -> bool {
        matches!(self, Rotation::Other(_) | Rotation::Kubelet(_))
    }

    /// One of Docker's.
    pub fn of_docker(rng: &mut fastrand::Rng) -> Rotation {
        match rng.u8(0..8) {
            0 => Rotation::Unlink,
            1 => Rotation::Over,
            2 => Rotation::Truncate,
            3..5 => Rotation::Pack(rng.u32(2..5)),
            _ => Rotation::Shift(rng.u32(2..6)),
        }
    }
}

thread_local!(static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false)));

/// One member. Its tables are made once a thread: they cost more than what is packed.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
    packed.reserve(bytes.len() + 64);
    COMPRESS.with_borrow_mut(|compress| {
        compress.reset();
        let said = compress.compress_vec(bytes, &mut packed, FlushCompress::Finish);
        assert_eq!(said.expect("in memory"), Status::StreamEnd, "there is room");
    });
    let mut crc = Crc::new();
    crc.update(bytes);
    packed.extend([crc.sum(), crc.amount()].iter().flat_map(|number| number.to_le_bytes()));
    packed
}

/// See the header.
pub struct Writer {
    pub rng: fastrand::Rng,
    pub folder: PathBuf,
    pub rotation: Rotation,
    /// Time that has passed in the simulation.
    pub now: Duration,
    pub wall: SystemTime,
    /// Number of the next line.
    pub next: u64,
    /// Lines that went before a reader could have had them, or that only a reader that has ended held.
    pub unreachable: BTreeSet<u64>,
    generations: Vec<Generation>,
    /// Which generation a name shows, and whether it is all of it.
    names: BTreeMap<String, usize>,
    steps: VecDeque<Step>,
    file: Option<File>,
    /// The generation of that file.
    current: usize,
    /// When the last step of a rotation was taken.
    rotated: Duration,
    packed: Option<(File, usize)>,
    pub copies: copytruncate::Copies,
}

impl Writer {
    pub fn new(seed: u64, folder: &Path, rotation: fn(&mut fastrand::Rng) -> Rotation) -> Writer {
        let mut rng = fastrand::Rng::with_seed(seed);
        let rotation = rotation(&mut rng);
        Writer {
            rng,
            folder: folder.to_owned(),
            rotation,
            now: Duration::ZERO,
            wall: SystemTime::now(),
            next: 0,
            unreachable: BTreeSet::new(),
            generations: Vec::new(),
            names: BTreeMap::new(),
            steps: VecDeque::from([Step::Create]),
            file: None,
            current: 0,
            rotated: Duration::ZERO,
            packed: None,
            copies: copytruncate::Copies::default(),
        }
    }

    /// Whether a rotation or a line is half done.
    pub fn is_busy(&self) -> bool {
        !self.steps.is_empty() || self.copies.is_half()
    }

    /// The reader is about to open that name.
    pub fn opens(&mut self, name: &str) {
        if let Some(at) = self.names.get(name) {
            self.generations[*at].opened = true;
        }
    }

    /// The generations that have a name.
    pub fn named(&self) -> BTreeSet<usize> {
        self.names.values().copied().collect()
    }

    /// Generations that were made so far.
    pub fn made(&self) -> usize {
        self.generations.len()
    }

    /// How many generations were opened in this life.
    pub fn opened(&self) -> usize {
        self.generations.iter().filter(|generation| generation.opened).count()
    }

    /// How many of the generations made since then were gone before anybody had opened them, at least and at most: of
    /// one without content nobody can say whether a compressed copy stands for it.
    pub fn missed(&self, since: usize) -> (usize, usize) {
        let missed = self.generations[since..].iter().filter(|generation| generation.missed);
        let least = missed.filter(|generation| !generation.lines.is_empty()).count();
        let most = |generation: &&Generation| generation.missed || generation.lines.is_empty();
        (least, self.generations[since..].iter().filter(most).count())
    }

    /// The lines of generations that were gone before anybody had opened them.
    pub fn missed_lines(&self) -> BTreeSet<u64> {
        let missed = self.generations.iter().filter(|generation| generation.missed);
        missed.flat_map(|generation| generation.lines.iter().copied()).collect()
    }

    /// The opener had a whole turn, and these had a name when it began: those that still have one it must have found.
    pub fn offered(&mut self, named: &BTreeSet<usize>) {
        for at in named.intersection(&self.named()) {
            self.generations[*at].opened = true;
        }
    }

    /// The reader has ended: what had no name any more went with it.
    pub fn reader_ended(&mut self) {
        let named = self.named();
        for (at, generation) in self.generations.iter_mut().enumerate() {
            generation.opened = false;
            if !named.contains(&at) {
                self.unreachable.extend(&generation.lines);
            }
        }
    }

    /// One call to the kernel.
    pub fn step(&mut self) {
        if self.rotation.is_served() {
            self.now += CALL;
        }
        // Docker stands still while it rotates; a program that logrotate serves does not.
        let goes_on = |writer: &mut Writer| {
            writer.rotation.is_served()
                && writer.file.is_some()
                && !matches!(writer.steps.front(), Some(Step::Rest(_)))
                && writer.rng.bool()
        };
        let step = if goes_on(self) { None } else { self.steps.pop_front() };
        let Some(step) = step else {
            if self.write_rest() {
                return;
            }
            match self.rng.u8(0..100) {
                0..12 if self.steps.is_empty() && self.is_due() => self.begin_rotation(),
                12..20 if self.rotation.appends().is_some() => self.write_half_aside(),
                12..20 if matches!(self.rotation, Rotation::Kubelet(_)) => self.write_piece(),
                12..20 => self.write_half(),
                _ => {
                    let lines: String = (0..self.rng.u8(1..4)).map(|_| self.line()).collect();
                    self.write(&lines);
                }
            }
            return;
        };
        if !matches!(step, Step::Rest(_)) {
            self.rotated = self.now;
        }
        match step {
            Step::Remove(name) => {
                let _ = fs::remove_file(self.folder.join(&name));
                let gone = self.names.remove(&name);
                self.forget(gone);
            }
            Step::Rename(from, to) => {
                if fs::rename(self.folder.join(&from), self.folder.join(&to)).is_ok() {
                    let gone = self.names.remove(&to);
                    if let Some(at) = self.names.remove(&from) {
                        self.names.insert(to, at);
                    }
                    self.forget(gone);
                }
            }
            Step::Create => {
                let mut file = self.make(BASE);
                if self.rotation.appends() == Some(true) {
                    file = File::options().append(true).open(self.folder.join(BASE)).expect("there");
                }
                self.file = Some(file);
                self.current = self.generations.len();
                self.names.insert(BASE.to_owned(), self.current);
                self.generations.push(Generation::default());
            }
            Step::Truncate => {
                let file = File::options().append(true).open(self.folder.join(BASE)).expect("there");
                file.set_len(0).expect("truncated");
                self.date(&file);
                self.file = Some(file);
                // Nobody can know what of it was read by then: the simulation looks at the order only.
                let at = self.names[BASE];
                let generation = std::mem::take(&mut self.generations[at]);
                self.generations[at].opened = generation.opened;
                self.unreachable.extend(generation.lines);
            }
            Step::Pack(bytes) => self.pack(&bytes),
            Step::Rest(line) => self.write(&line),
            Step::Other(step) => self.logrotate(step),
            Step::Kubelet(step) => self.kubelet(step),
        }
    }

    fn forget(&mut self, gone: Option<usize>) {
        if let Some(at) = gone
            && !self.names.values().any(|known| *known == at)
            && (!self.generations[at].opened || self.rotation.appends().is_some())
        {
            self.generations[at].missed = self.rotation.appends().is_none();
            let lines = self.generations[at].lines.clone();
            self.copies.forget(at, &lines);
            self.unreachable.extend(lines);
        }
    }

    fn line(&mut self) -> String {
        let number = self.next;
        self.next += 1;
        self.generations[self.current].lines.push(number);
        self.text_of(number)
    }

    fn text_of(&self, number: u64) -> String {
        if let Rotation::Kubelet(_) = self.rotation {
            return format!("2026-11-24T10:00:00.{number:09}Z stdout F {number}\n");
        }
        record_at(&format!("{number}\\n"), number)
    }

    fn write_half(&mut self) {
        let line = self.line();
        let at = self.rng.usize(1..line.len());
        self.write(&line[..at]);
        self.steps.push_front(Step::Rest(line[at..].to_owned()));
    }

    fn write(&mut self, text: &str) {
        let mut file = self.file.as_ref().expect("created");
        file.write_all(text.as_bytes()).expect("written");
        self.date(file);
        self.dig();
        self.generations[self.current].bytes.extend_from_slice(text.as_bytes());
    }

    /// A new file.
    fn make(&self, name: &str) -> File {
        let file = File::create(self.folder.join(name)).expect("created");
        disk::bear(&file, self.wall + self.now);
        self.date(&file);
        file
    }

    /// A file was changed at the simulation's time: that of the kernel is hardly later than when it began, and would make
    /// each plain file older than each compressed one.
    fn date(&self, file: &File) {
        file.set_modified(self.wall + self.now).expect("set");
    }

    fn begin_rotation(&mut self) {
        let name = |n: u32, gz: &str| if n == 0 { BASE.to_owned() } else { format!("{BASE}.{n}{gz}") };
        match self.rotation {
            Rotation::Unlink => self.steps.push_back(Step::Remove(BASE.to_owned())),
            Rotation::Over => self.steps.push_back(Step::Rename(BASE.to_owned(), name(1, ""))),
            Rotation::Truncate => {
                self.steps.push_back(Step::Truncate);
                return;
            }
            Rotation::Other(how) => {
                self.begin_logrotate(how);
                return;
            }
            Rotation::Kubelet(how) => {
                self.begin_kubelet(how);
                return;
            }
            Rotation::Shift(keep) | Rotation::Pack(keep) => {
                let gz = if matches!(self.rotation, Rotation::Pack(_)) { ".gz" } else { "" };
                self.steps.push_back(Step::Remove(name(keep - 1, gz)));
                for n in (1..keep - 1).rev() {
                    self.steps.push_back(Step::Rename(name(n, gz), name(n + 1, gz)));
                }
                self.steps.push_back(Step::Rename(BASE.to_owned(), name(1, "")));
            }
        }
        self.steps.push_back(Step::Create);
        if matches!(self.rotation, Rotation::Pack(_)) {
            let whole = gzip(&self.generations[self.names[BASE]].bytes);
            let cut = self.rng.usize(0..whole.len());
            self.steps.push_back(Step::Pack(Vec::new()));
            self.steps.push_back(Step::Pack(whole[..cut].to_vec()));
            self.steps.push_back(Step::Pack(whole[cut..].to_vec()));
            self.steps.push_back(Step::Remove(name(1, "")));
        }
    }

    fn pack(&mut self, bytes: &[u8]) {
        let name = format!("{BASE}.1.gz");
        let (mut file, parts) = match self.packed.take() {
            Some(packed) => packed,
            None => {
                // Under this name it is the same generation as `.1`.
                let at = self.names[&format!("{BASE}.1")];
                self.names.insert(name.clone(), at);
                (self.make(&name), 0)
            }
        };
        file.write_all(bytes).expect("written");
        self.date(&file);
        // logrotate closes it when it has its time.
        if parts < 2 || self.rotation.is_served() {
            self.packed = Some((file, parts + 1));
        }
    }
}
