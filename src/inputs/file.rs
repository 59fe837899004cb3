//! `type = "file"`: plain text, JSON lines, CRI and json-file files by glob, followed through rotation.
//!
//! `paths` are globs: `*` and `?` stay within one folder, `**` is any number of folders, `{a,b}` and `[a-z]` work as
//! in a shell. New files and folders are found by inotify, and by a look every 10 s (once in five minutes on local file
//! systems, where inotify tells of all there is). A rotated name (`x.log.1`, `x.log-20261124.gz`) that a glob matches is a
//! generation of `x.log` if that exists, or did and is away, not a file of its own; one that no glob matches is used only to
//! find the place of a checkpoint after a restart. `worker-1` and `x.01` are no rotated names; `x.0` is one.
//!
//! Limits: `line_max` (1 MiB; a json-file record 4 MiB) cuts and counts; [`FOLDERS_MAX`] folders, [`DEPTH_MAX`] levels
//! below a glob's first folder. FIFOs, devices, folders and unreadable files are reported once, the others go on.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::FileType;

use super::follow::chain::{About, First, Rules};
use super::follow::decode::Format;
use super::follow::disk;
use super::follow::generations::{Family, base_of};
use super::follow::identity;
use super::follow::layout::{Folders, Known, Layout, Meaning};
use super::follow::{self, Follow};
use super::{Ack, Input, InputKind, Outlet};
use crate::pipeline::template::Template;
use crate::record::{Origin, Tag};
use crate::settings::Section;
use crate::workers::Workers;

/// The row of this input.
pub const KIND: InputKind = InputKind { name: "file", read };

/// Folders that one input watches, at most.
pub const FOLDERS_MAX: usize = 100_000;
/// Folder levels below the fixed part of a glob, at most.
pub const DEPTH_MAX: usize = 32;
const LINE_MAX: u64 = 1 << 20;
const RECORD_MAX: u64 = 4 << 20;
const HINT: &str = "; run as a user that may read it, or give the program CAP_DAC_READ_SEARCH";

struct Files {
    input: String,
    paths: Vec<Pattern>,
    exclude: Vec<GlobMatcher>,
    format: Format,
    line_max: usize,
    tag: Template,
    ack: Ack,
    tail: bool,
    readers: usize,
    watch: bool,
    /// `held_deleted_max` and `priority`.
    limits: (Option<u64>, bool),
}

fn read(section: &Section<'_, '_>, name: &str) -> Box<dyn Input> {
    if !section.has("paths") {
        let message = format!("{}: `paths` is missing; for example paths = [\"/var/log/app/*.log\"]", section.path());
        section.doc().error(section.span(), message);
    }
    let formats = [("text", Format::Text), ("json", Format::Json), ("cri", Format::Cri), ("docker", Format::Docker)];
    let format = section.choice("format", &formats).unwrap_or(Format::Text);
    let default = if format == Format::Docker { RECORD_MAX } else { LINE_MAX };
    let list = |key| section.texts(key).unwrap_or_default();
    let wrong =
        |span, key: &str, message: String| section.doc().error(span, format!("{}.{key}: {message}", section.path()));
    let mut paths = Vec::new();
    for (text, span) in list("paths") {
        match Pattern::new(&text) {
            Ok(pattern) => paths.push(pattern),
            Err(message) => wrong(span, "paths", message),
        }
    }
    let mut exclude = Vec::new();
    for (text, span) in list("exclude") {
        match glob(&text) {
            Ok(glob) => exclude.push(glob),
            Err(message) => wrong(span, "exclude", message),
        }
    }
    Box::new(Files {
        input: name.to_owned(),
        paths,
        exclude,
        format,
        line_max: section.size("line_max", 64..(64 << 20) + 1).unwrap_or(default) as usize,
        tag: follow::read_tag(section, &name.replace('{', "{{").replace('}', "}}")),
        ack: follow::read_ack(section),
        tail: follow::read_start(section),
        readers: section.count("readers", 1..65).unwrap_or(1) as usize,
        watch: section.choice("watch", &[("inotify", true), ("poll", false)]).unwrap_or(true),
        limits: follow::read_limits(section),
    })
}

impl Input for Files {
    fn gives_again(&self) -> bool {
        self.ack == Ack::Delivered
    }

    fn is_sent_to(&self) -> bool {
        false
    }

    fn tags(&self) -> Vec<String> {
        vec![self.tag.pattern()]
    }

    fn start(self: Box<Self>, outlet: Outlet, workers: &Arc<Workers>) -> io::Result<()> {
        let rules = Rules {
            input: self.input.clone(),
            format: self.format,
            line_max: self.line_max,
            docker: false,
            ack: self.ack,
        };
        let known = outlet.checkpoints.as_ref().map(|checkpoints| checkpoints.keys(&self.input));
        let bases = known.unwrap_or_default().into_iter().map(PathBuf::from).collect();
        let layout =
            Globs { bases, input: self.input, paths: self.paths, exclude: self.exclude, tag: self.tag, said: false };
        let follow = Follow {
            rules,
            layout: Box::new(layout),
            readers: self.readers,
            tail: self.tail,
            what: "files",
            watch: self.watch,
            held_deleted_max: self.limits.0,
            hurry: self.limits.1,
        };
        follow::start(follow, outlet, workers)
    }
}

/// One of `paths`.
#[derive(Debug)]
struct Pattern {
    glob: GlobMatcher,
    /// The folder before the first wildcard.
    root: PathBuf,
    /// The folders after it: `None` is `**`.
    parts: Vec<Option<GlobMatcher>>,
}

fn glob(text: &str) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(text).literal_separator(true).build();
    glob.map(|glob| glob.compile_matcher()).map_err(|error| error.to_string())
}

impl Pattern {
    fn new(text: &str) -> Result<Pattern, String> {
        if text.is_empty() || text.ends_with('/') {
            return Err(format!(
                "\"{text}\" names no file; write for example \"{}/*.log\"",
                text.trim_end_matches('/')
            ));
        }
        let path = std::path::absolute(text).map_err(|error| format!("\"{text}\": {error}"))?;
        let Some(text) = path.to_str() else { return Err("not UTF-8".to_owned()) };
        let wild = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']);
        let folders: Vec<Component<'_>> = path.parent().into_iter().flat_map(Path::components).collect();
        let fixed = folders.iter().position(wild).unwrap_or(folders.len());
        let mut parts = Vec::new();
        for part in &folders[fixed..] {
            let part = part.as_os_str().to_string_lossy();
            parts.push(if part == "**" { None } else { Some(glob(&part)?) });
        }
        if parts.len() > DEPTH_MAX {
            return Err(format!("\"{text}\" has more than {DEPTH_MAX} folders after its first wildcard"));
        }
        Ok(Pattern { glob: glob(text)?, root: folders[..fixed].iter().collect(), parts })
    }

    /// All folders that a match may be in, or under.
    fn folders(&self, walk: &mut Walk) {
        walk.down(&self.root, &self.parts, 0);
    }
}

/// What was found on the way down.
#[derive(Default)]
struct Walk {
    folders: BTreeSet<PathBuf>,
    unread: Vec<(PathBuf, io::Error)>,
}

impl Walk {
    fn down(&mut self, folder: &Path, parts: &[Option<GlobMatcher>], depth: usize) {
        if depth > DEPTH_MAX || self.folders.len() >= FOLDERS_MAX {
            return;
        }
        self.folders.insert(folder.to_owned());
        let Some((part, rest)) = parts.split_first() else { return };
        if part.is_none() {
            self.down(folder, rest, depth);
        }
        let entries = disk::entries(folder).unwrap_or_else(|error| {
            self.could_not(folder, error);
            Vec::new()
        });
        for entry in entries {
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            match part {
                // Links are not followed here: they may lead up again.
                None if kind.is_dir() => self.down(&path, parts, depth + 1),
                Some(glob)
                    if glob.is_match(entry.file_name())
                        && (kind.is_dir() || kind.is_symlink() && self.is_folder(&path)) =>
                {
                    self.down(&path, rest, depth + 1);
                }
                _ => {}
            }
        }
    }

    fn is_folder(&mut self, path: &Path) -> bool {
        match identity::look_at(path) {
            Ok(look) => look.kind == FileType::Directory,
            Err(error) => {
                self.could_not(path, error);
                false
            }
        }
    }

    fn could_not(&mut self, path: &Path, error: io::Error) {
        if !disk::is_absent(&error) {
            self.unread.push((path.to_owned(), error));
        }
    }
}

/// Files by glob.
struct Globs {
    /// Names that are, or were, files of their own: those of this run that have a generation left, and those of which
    /// something was read in an earlier one.
    bases: HashSet<PathBuf>,
    input: String,
    paths: Vec<Pattern>,
    exclude: Vec<GlobMatcher>,
    tag: Template,
    said: bool,
}

impl Globs {
    fn wants(&self, path: &Path) -> bool {
        self.paths.iter().any(|pattern| pattern.glob.is_match(path))
            && !self.exclude.iter().any(|glob| glob.is_match(path))
    }

    /// The family of a file's name in a folder, if it is followed.
    fn family(&mut self, folder: &Path, name: &str) -> Option<Family> {
        let family = |base: &str| Family { folder: folder.to_owned(), base: base.to_owned(), dated: true };
        // A rotated name belongs to its base, while there is one that is followed or was: in the middle of a rotation, or
        // until its writer opens a new one, it is away.
        let rotated = Some(family(base_of(name))).filter(|rotated| rotated.base != name && rotated.owns(name));
        let rotated = rotated.filter(|rotated| {
            let base = rotated.path();
            self.wants(&base) && (self.bases.contains(&base) || base.is_file())
        });
        let family = rotated.or_else(|| self.wants(&folder.join(name)).then(|| family(name)))?;
        if !self.bases.contains(&family.path()) {
            self.bases.insert(family.path());
        }
        Some(family)
    }
}

impl Layout for Globs {
    fn folders(&mut self) -> Folders {
        let mut walk = Walk::default();
        self.paths.iter().for_each(|pattern| pattern.folders(&mut walk));
        let found = std::mem::take(&mut walk.folders);
        let all = found.into_iter().filter(|folder| walk.is_folder(folder)).collect();
        Folders { all, unread: walk.unread }
    }

    fn families(&mut self, folder: &Path) -> io::Result<Vec<Family>> {
        let mut bases = BTreeSet::new();
        for entry in disk::entries(folder)? {
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                if self.wants(&entry.path()) && !std::mem::replace(&mut self.said, true) {
                    tracing::error!(input = self.input, path = %entry.path().display(), "a name that is not UTF-8 is not followed");
                }
                continue;
            };
            // A folder that a glob matches is no mistake of anybody's, unless there was a file.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !self.bases.contains(&folder.join(name)) {
                continue;
            }
            bases.extend(self.family(folder, name).map(|family| family.base));
        }
        Ok(bases.into_iter().map(|base| Family { folder: folder.to_owned(), base, dated: true }).collect())
    }

    fn has_folders(&self, folder: &Path) -> bool {
        self.paths.iter().any(|pattern| {
            let depth = folder.strip_prefix(&pattern.root).ok().map(|below| below.components().count());
            depth.is_some_and(|depth| depth < pattern.parts.len() || pattern.parts.iter().any(Option::is_none))
        })
    }

    fn forget(&mut self, family: &Family) {
        self.bases.remove(&family.path());
    }

    fn meaning(&mut self, folder: &Path, name: &str, of_file: bool) -> Meaning {
        let path = folder.join(name);
        if self.has_folders(folder) && (path.is_dir() || !of_file && !path.exists()) {
            return Meaning::Folder;
        }
        if path.is_dir() && !self.bases.contains(&path) {
            return Meaning::Nothing;
        }
        self.family(folder, name).map_or(Meaning::Nothing, Meaning::Member)
    }

    fn about(&mut self, family: &Family) -> Known {
        let origin = Origin { file: Some(family.path().to_string_lossy().into_owned()), ..Origin::default() };
        let tag = self.tag.for_origin(&origin);
        let tag = Tag::from(&tag[..tag.floor_char_boundary(4 << 10)]);
        Known::Sure(About { tag, origin: Arc::new(origin) })
    }

    fn key(&self, family: &Family) -> String {
        family.path().to_string_lossy().into_owned()
    }

    fn first(&self, family: &Family) -> First {
        if self.wants(&family.numbered(1)) || self.wants(&family.numbered(0)) { First::Oldest } else { First::Newest }
    }

    fn denied_hint(&self) -> &'static str {
        HINT
    }

    fn ends_with_folder(&self) -> bool {
        false
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::inputs::follow::checkpoint::Checkpoints;

    /// The files of these globs.
    pub fn layout(dir: &Path, patterns: &[&str], known: &Checkpoints) -> Box<dyn Layout> {
        let bases = known.keys("in").into_iter().map(PathBuf::from).collect();
        Box::new(Globs { bases, ..globs(dir, patterns, &[]) })
    }

    fn globs(dir: &Path, patterns: &[&str], exclude: &[&str]) -> Globs {
        let full = |text: &&str| format!("{}/{text}", dir.display());
        Globs {
            bases: HashSet::new(),
            input: "files".to_owned(),
            paths: patterns.iter().map(|text| Pattern::new(&full(text)).expect("valid")).collect(),
            exclude: exclude.iter().map(|text| glob(&full(text)).expect("valid")).collect(),
            tag: Template::parse("files").expect("valid"),
            said: false,
        }
    }

    fn found(globs: &mut Globs, dir: &Path) -> Vec<String> {
        let mut all = Vec::new();
        for folder in globs.folders().all {
            for family in globs.families(&folder).expect("listed") {
                all.push(family.path().strip_prefix(dir).expect("below").to_string_lossy().into_owned());
            }
        }
        all.sort();
        all
    }

    #[test]
    fn globs_stay_within_a_folder_and_two_stars_do_not() {
        let dir = tempfile::tempdir().expect("a temp dir");
        for path in ["a.log", "b.txt", "x/c.log", "x/y/d.log", "z/no.txt", "x/y/skip.log"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("made");
            fs::write(path, "").expect("written");
        }
        let all = |patterns: &[&str], exclude: &[&str]| found(&mut globs(dir.path(), patterns, exclude), dir.path());
        assert_eq!(all(&["*.log"], &[]), ["a.log"]);
        assert_eq!(all(&["*/*.log"], &[]), ["x/c.log"]);
        assert_eq!(all(&["**/*.log"], &["**/skip.log"]), ["a.log", "x/c.log", "x/y/d.log"]);
        assert_eq!(all(&["x/**/d.log", "b.txt", "nowhere/*.log"], &[]), ["b.txt", "x/y/d.log"]);
    }

    #[test]
    fn rotated_names_belong_to_their_base_while_it_exists_or_is_away() {
        let dir = tempfile::tempdir().expect("a temp dir");
        for name in ["a.log", "a.log.1", "a.log-20261124.gz", "worker.1", "worker.2"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        let mut all = globs(dir.path(), &["*"], &[]);
        assert_eq!(found(&mut all, dir.path()), ["a.log", "worker.1", "worker.2"]);
        let family = all.family(dir.path(), "a.log.1").expect("followed");
        assert_eq!((family.base.as_str(), all.first(&family)), ("a.log", First::Oldest));
        fs::remove_file(dir.path().join("a.log")).expect("removed");
        assert_eq!(found(&mut all, dir.path()), ["a.log", "worker.1", "worker.2"]);
        let only = globs(dir.path(), &["*.log"], &[]);
        assert_eq!(only.first(&family), First::Newest);
    }

    #[test]
    fn a_pattern_without_a_file_is_refused() {
        assert!(Pattern::new("/var/log/").expect_err("refused").contains("/var/log/*.log"));
        assert!(Pattern::new("/var/log/[a").is_err());
    }
}
