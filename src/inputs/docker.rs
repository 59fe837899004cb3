//! `type = "docker"`: every container's json-file log under Docker's `containers` folder, with its rotated generations,
//! and name, image and labels from `config.v2.json`. No Docker socket is needed.
//!
//! Followed is `<id>/<id>-json.log(.N)(.gz)` and nothing else of a container's folder (cached and local logs, `.tmp`
//! files, checkpoints). `config.v2.json` is read when a container appears and again whenever Docker replaces it; while
//! it is missing or broken, lines go on with the id alone, the first one after half a second; one that stays broken is said. `exclude` leaves
//! containers out by label, name or image; longshore's own container is always left out.
//!
//! Limits: `config.v2.json` of 8 MiB; a tag of 4 KiB (cut); a record of `line_max` (4 MiB).
//! Source of the files: moby `daemon/logger/jsonfilelog`, `container/container.go` (research in docker engines 17 to 29).

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};

use super::follow::chain::{About, First, Rules, time_within};
use super::follow::decode::Format;
use super::follow::generations::{self, Family, Handed};
use super::follow::identity::{self, FileId};
use super::follow::layout::{Folders, Known, Layout, Meaning};
use super::follow::listing::Listing;
use super::follow::standing::{self, Space};
use super::follow::{self, Follow};
use super::{Ack, Input, InputKind, Outlet};
use crate::pipeline::template::Template;
use crate::record::{Container, Origin, Tag};
use crate::settings::{Section, show_size};
use crate::workers::Workers;

/// The row of this input.
pub const KIND: InputKind = InputKind { name: "docker", read };

const ROOT: &str = "/var/lib/docker/containers";
const CONFIG: &str = "config.v2.json";
const HOST_CONFIG: &str = "hostconfig.json";
const CONFIG_MAX: u64 = 8 << 20;
/// More than any log file has: what is reckoned with it has room.
const FILE_MAX: u64 = 1 << 40;
const TAG_MAX: usize = 4 << 10;
const RECORD_MAX: u64 = 4 << 20;
const HINT: &str = "; Docker's files belong to root: run as uid 0 (the tailer profile: no capability is \
                    needed), or give the program CAP_DAC_READ_SEARCH";

struct Docker {
    input: String,
    root: PathBuf,
    tag: Template,
    exclude: Vec<Exclude>,
    ack: Ack,
    tail: bool,
    line_max: usize,
    readers: usize,
    watch: bool,
    /// `held_deleted_max` and `priority`.
    limits: (Option<u64>, bool),
}

/// One `exclude`.
#[derive(Debug)]
enum Exclude {
    /// The label's name, and its value, if one is asked for.
    Label(String, Option<GlobMatcher>),
    Name(GlobMatcher),
    Image(GlobMatcher),
}

fn read(section: &Section<'_, '_>, name: &str) -> Box<dyn Input> {
    let root = section.text("path").unwrap_or_else(|| ROOT.to_owned());
    let exclude = section.texts("exclude").unwrap_or_default();
    let exclude = exclude.into_iter().filter_map(|(text, span)| match parse_exclude(&text) {
        Ok(rule) => Some(rule),
        Err(message) => {
            section.doc().error(span, format!("{}.exclude: {message}", section.path()));
            None
        }
    });
    Box::new(Docker {
        input: name.to_owned(),
        root: PathBuf::from(root),
        exclude: exclude.collect(),
        tag: follow::read_tag(section, "docker.{container.name}"),
        ack: follow::read_ack(section),
        tail: follow::read_start(section),
        line_max: section.size("line_max", 16 << 10..(64 << 20) + 1).unwrap_or(RECORD_MAX) as usize,
        readers: section.count("readers", 1..65).unwrap_or(1) as usize,
        watch: section.choice("watch", &[("inotify", true), ("poll", false)]).unwrap_or(true),
        limits: follow::read_limits(section),
    })
}

fn parse_exclude(text: &str) -> Result<Exclude, String> {
    let glob = |pattern: &str| {
        GlobBuilder::new(pattern).build().map(|glob| glob.compile_matcher()).map_err(|error| error.to_string())
    };
    match text.split_once(':') {
        Some(("label", rule)) if !rule.is_empty() => match rule.split_once('=') {
            Some((name, value)) => Ok(Exclude::Label(name.to_owned(), Some(glob(value)?))),
            None => Ok(Exclude::Label(rule.to_owned(), None)),
        },
        Some(("name", pattern)) => Ok(Exclude::Name(glob(pattern)?)),
        Some(("image", pattern)) => Ok(Exclude::Image(glob(pattern)?)),
        _ => Err(format!(
            "\"{text}\" is not known; write \"label:key=value\", \"label:key\", \"name:glob\" or \"image:glob\""
        )),
    }
}

impl Exclude {
    fn matches(&self, container: &Container) -> bool {
        match self {
            Exclude::Label(name, value) => container
                .labels
                .iter()
                .any(|(key, text)| key == name && value.as_ref().is_none_or(|glob| glob.is_match(text))),
            Exclude::Name(glob) => !container.name.is_empty() && glob.is_match(&container.name),
            Exclude::Image(glob) => !container.image.is_empty() && glob.is_match(&container.image),
        }
    }
}

impl Input for Docker {
    fn gives_again(&self) -> bool {
        self.ack == Ack::Delivered
    }

    fn is_sent_to(&self) -> bool {
        false
    }

    fn tags(&self) -> Vec<String> {
        vec![self.tag.pattern()]
    }

    fn warnings(&self) -> Vec<String> {
        let mut containers = Containers::new(self.root.clone(), Template::default(), Vec::new(), own_id());
        let folders = containers.folders().all;
        let families = folders.iter().flat_map(|folder| id_of(folder).map(|id| family(folder, id)));
        families.filter_map(|family| small(&family, containers.space(&family)?)).collect()
    }

    fn start(self: Box<Self>, outlet: Outlet, workers: &Arc<Workers>) -> io::Result<()> {
        match fs::read_dir(&self.root) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(input = self.input, path = %self.root.display(), "the folder does not exist (yet); it is looked for every 10 s");
            }
            Err(error) => {
                let message = format!(
                    "{}: {error}{}",
                    self.root.display(),
                    if error.kind() == io::ErrorKind::PermissionDenied { HINT } else { "" }
                );
                return Err(io::Error::new(error.kind(), message));
            }
        }
        let layout = Containers::new(self.root, self.tag, self.exclude, own_id());
        let follow = Follow {
            rules: Rules {
                input: self.input,
                format: Format::Docker,
                line_max: self.line_max,
                docker: true,
                ack: self.ack,
            },
            layout: Box::new(layout),
            readers: self.readers,
            tail: self.tail,
            what: "containers",
            watch: self.watch,
            held_deleted_max: self.limits.0,
            hurry: self.limits.1,
        };
        follow::start(follow, outlet, workers)
    }
}

/// Containers and their folders.
struct Containers {
    root: PathBuf,
    /// What is in it.
    listing: Listing,
    tag: Template,
    exclude: Vec<Exclude>,
    /// Our own id, or the start of it.
    own: Option<String>,
    cache: HashMap<String, Config>,
    /// Configurations that could not be understood, by their path, and which file each was.
    broken: HashMap<PathBuf, Option<Version>>,
    trouble: Vec<(PathBuf, io::Error)>,
}

/// A file of a configuration: Docker writes another one each time.
type Version = (FileId, u64, i64);

/// What `config.v2.json` said, and which file that was.
struct Config {
    version: Version,
    known: Known,
}

impl Layout for Containers {
    fn folders(&mut self) -> Folders {
        let mut folders = Folders { all: vec![self.root.clone()], unread: Vec::new() };
        let names = match self.listing.beginning_with(&self.root, "") {
            Ok(names) => names,
            // Also if it is absent: Docker removes its containers, and not the folder that they are in.
            Err(error) => {
                folders.unread.push((self.root.clone(), error));
                return folders;
            }
        };
        let is_own = |id: &str| self.own.as_ref().is_some_and(|own| id.starts_with(own.as_str()));
        let ids = names.iter().filter(|name| is_id(name) && !is_own(name));
        let ids: HashSet<&str> = ids.map(String::as_str).collect();
        self.cache.retain(|id, _| ids.contains(id.as_str()));
        self.broken.retain(|path, _| path.parent().and_then(id_of).is_some_and(|id| ids.contains(id)));
        folders.all.extend(ids.iter().map(|id| self.root.join(id)));
        folders
    }

    fn folders_stand(&self) -> bool {
        self.listing.stands(&self.root)
    }

    fn families(&mut self, folder: &Path) -> io::Result<Vec<Family>> {
        Ok(id_of(folder).map(|id| family(folder, id)).into_iter().collect())
    }

    fn has_folders(&self, folder: &Path) -> bool {
        folder == self.root
    }

    fn meaning(&mut self, folder: &Path, name: &str, _: bool) -> Meaning {
        if folder == self.root {
            return if is_id(name) { Meaning::Folder } else { Meaning::Nothing };
        }
        let Some(id) = id_of(folder) else { return Meaning::Nothing };
        if name == CONFIG {
            return Meaning::About;
        }
        let family = family(folder, id);
        if family.owns(name) { Meaning::Member(family) } else { Meaning::Nothing }
    }

    fn about(&mut self, family: &Family) -> Known {
        let Some(id) = id_of(&family.folder) else { return Known::Leave };
        let path = family.folder.join(CONFIG);
        let version = identity::look_at(&path).ok().map(|look| (look.id, look.size, look.mtime));
        if let (Some(version), Some(config)) = (version, self.cache.get(id))
            && config.version == version
        {
            return config.known.clone();
        }
        let container = version.map(|_| read_config(&path, id)).transpose();
        let container = container.unwrap_or_else(|error| {
            // Once may be a moment's.
            if self.broken.insert(path.clone(), version) == Some(version) {
                self.trouble.push((path.clone(), error));
            }
            None
        });
        let Some(container) = container else {
            // What was known stays known; a file that is missing or broken may be whole in a moment.
            return match self.cache.get(id) {
                Some(config) => config.known.clone(),
                None => Known::Maybe(self.describe(Container { id: id.to_owned(), ..Container::default() })),
            };
        };
        self.broken.remove(&path);
        let known = if self.exclude.iter().any(|rule| rule.matches(&container)) {
            Known::Leave
        } else {
            Known::Sure(self.describe(container))
        };
        if let Some(version) = version {
            self.cache.insert(id.to_owned(), Config { version, known: known.clone() });
        }
        known
    }

    fn trouble(&mut self) -> Vec<(PathBuf, io::Error)> {
        std::mem::take(&mut self.trouble)
    }

    fn space(&mut self, family: &Family) -> Option<Space> {
        space_of(&read_whole(&family.folder.join(HOST_CONFIG)).ok()?)
    }

    fn key(&self, family: &Family) -> String {
        id_of(&family.folder).unwrap_or_default().to_owned()
    }

    fn first(&self, _: &Family) -> First {
        First::Oldest
    }

    fn denied_hint(&self) -> &'static str {
        HINT
    }

    fn ends_with_folder(&self) -> bool {
        true
    }
}

impl Containers {
    fn new(root: PathBuf, tag: Template, exclude: Vec<Exclude>, own: Option<String>) -> Containers {
        let (cache, broken, trouble) = (HashMap::new(), HashMap::new(), Vec::new());
        let listing = Listing::default();
        Containers { root, listing, tag, exclude, own, cache, broken, trouble }
    }

    fn describe(&self, container: Container) -> About {
        let mut origin = Origin { container: Some(container), ..Origin::default() };
        // A tag always has a name in it: the short id, as long as there is no other.
        let unnamed = origin.container.as_mut().filter(|container| container.name.is_empty());
        let tag = match unnamed {
            Some(container) => {
                container.name = container.name_or_id().to_owned();
                let tag = self.tag.for_origin(&origin);
                if let Some(container) = &mut origin.container {
                    container.name = String::new();
                }
                tag
            }
            None => self.tag.for_origin(&origin),
        };
        let tag = &tag[..tag.floor_char_boundary(TAG_MAX)];
        About { tag: Tag::from(tag), origin: Arc::new(origin) }
    }
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn id_of(folder: &Path) -> Option<&str> {
    folder.file_name().and_then(|name| name.to_str()).filter(|name| is_id(name))
}

fn family(folder: &Path, id: &str) -> Family {
    Family { folder: folder.to_owned(), base: format!("{id}-json.log"), dated: false }
}

/// The content of a regular file, [`CONFIG_MAX`] bytes at most. Anything else (a FIFO, a device) would make the opener
/// wait: it is opened without waiting, and left.
fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let file = generations::open(path)?.file()?;
    let mut text = Vec::new();
    file.take(CONFIG_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// What to say of a container whose rotation keeps less of its output than a few seconds.
fn small(family: &Family, space: Space) -> Option<String> {
    let all = family.scan(&Handed::none(), generations::Opened::default(), None).fresh;
    let files: Vec<(u64, Duration, bool)> = all
        .iter()
        .filter_map(|held| Some((held.look().ok()?, held.gz)))
        .map(|(look, gz)| (look.size, Duration::from_nanos(u64::try_from(look.mtime).unwrap_or(0)), gz))
        .collect();
    let (rate, of) = match (&all[..], &files[..]) {
        ([only], [(size, ..)]) if !only.gz => {
            (standing::rate_within(*size, time_within(only)?)?, "the records of its one file".to_owned())
        }
        _ => (standing::estimated_rate(space, &files)?, format!("the sizes and times of its {} files", files.len())),
    };
    let kept = standing::kept(space, rate);
    let id = id_of(&family.folder)?;
    let name = read_config(&family.folder.join(CONFIG), id).map_or_else(|_| id.to_owned(), |container| container.name);
    (kept < standing::SMALL).then(|| {
        format!(
            "container {name}: rotation keeps some {:.1} s of its output (max-size {}, max-file {}, {}/s as {of} say): what is not read within that time is lost, so a restart of longshore or of the machine costs lines; raise max-size or max-file",
            kept.as_secs_f64(),
            show_size(space.file_max),
            space.files,
            show_size(rate as u64)
        )
    })
}

/// # Errors
/// With what is wrong, and what is done about it.
fn read_config(path: &Path, id: &str) -> io::Result<Container> {
    let wrong = |what: String| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{what}; the container's lines go on with its id for a name, docker inspect {} tells more",
                &id[..12]
            ),
        )
    };
    let config: serde_json::Value = serde_json::from_slice(&read_whole(path)?)
        .map_err(|error| wrong(format!("not the JSON of a container: {error}")))?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let labels = config["Config"]["Labels"].as_object();
    let labels = labels.into_iter().flatten().map(|(key, value)| (key.clone(), text(value)));
    let name = config["Name"].as_str().ok_or_else(|| wrong("no \"Name\" in it".to_owned()))?;
    Ok(Container {
        id: id.to_owned(),
        name: name.strip_prefix('/').unwrap_or(name).to_owned(),
        image: text(&config["Config"]["Image"]),
        labels: labels.collect(),
    })
}

/// Docker's limits for a log, from `hostconfig.json` (the daemon's defaults are merged in). Without `max-size` there is
/// no rotation.
fn space_of(text: &[u8]) -> Option<Space> {
    let config: serde_json::Value = serde_json::from_slice(text).ok()?;
    let options = &config["LogConfig"]["Config"];
    let file_max = docker_size(options["max-size"].as_str()?)?;
    let files = options["max-file"].as_str().and_then(|text| text.parse().ok()).unwrap_or(1);
    let compress = options["compress"].as_str() == Some("true");
    (file_max > 0 && (1..=10_000).contains(&files)).then_some(Space {
        file_max: file_max.min(FILE_MAX),
        files,
        compress,
    })
}

/// A size as Docker reads it: a number with `k`, `m`, `g`, decimal, perhaps with a `b` behind it.
fn docker_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, unit) = match text.strip_suffix(['k', 'm', 'g', 't']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, ""),
    };
    let factor = match unit {
        "k" => 1_000.0,
        "m" => 1_000_000.0,
        "g" => 1e9,
        "t" => 1e12,
        _ => 1.0,
    };
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some((number * factor) as u64)
}

/// The id of the container that we run in, or its first 12 digits.
fn own_id() -> Option<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    own_id_from(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"), &read("/etc/hostname"))
}

fn own_id_from(mountinfo: &str, cgroup: &str, hostname: &str) -> Option<String> {
    // Docker mounts these three from the container's own folder. (Other mounts name other containers, on the host.)
    let mounted = mountinfo.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let ours = matches!(*fields.get(4)?, "/etc/hostname" | "/etc/hosts" | "/etc/resolv.conf");
        ours.then(|| fields.get(3)?.split('/').find(|part| is_id(part))).flatten()
    });
    let parts = |text: &'static str| move |c: char| text.contains(c);
    let grouped = || cgroup.lines().flat_map(|line| line.rsplit(parts("/-.:"))).find(|part| is_id(part));
    let named = || {
        let name = hostname.trim();
        (name.len() == 12 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some(name)
    };
    mounted.or_else(grouped).or_else(named).map(str::to_owned)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The containers of a folder.
    pub fn layout(root: &Path, exclude: &[&str]) -> Box<dyn Layout> {
        Box::new(containers(root, exclude))
    }

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn containers(root: &Path, exclude: &[&str]) -> Containers {
        let exclude = exclude.iter().map(|text| parse_exclude(text).expect("valid")).collect();
        let tag = Template::parse("docker.{container.name}").expect("valid");
        Containers::new(root.to_owned(), tag, exclude, None)
    }

    fn about(known: Known) -> About {
        match known {
            Known::Sure(about) | Known::Maybe(about) => about,
            Known::Leave => panic!("left out"),
        }
    }

    #[test]
    fn configurations_that_are_fifos_are_left_unread() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let folder = dir.path().join(ID);
        fs::create_dir(&folder).expect("made");
        let texts = [
            (CONFIG, r#"{"Name":"/web","Config":{}}"#),
            (HOST_CONFIG, r#"{"LogConfig":{"Config":{"max-size":"10k"}}}"#),
        ];
        let mut readers = Vec::new();
        for (name, text) in texts {
            let path = folder.join(name);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
            // What is in it would do, were it a file: it stays there as long as somebody has the FIFO open.
            readers.push(follow::disk::open(&path).expect("opens"));
            fs::write(&path, text).expect("written");
        }
        let mut layout = containers(dir.path(), &[]);
        let family = layout.families(&folder).expect("listed").pop().expect("one");
        assert!(matches!(layout.about(&family), Known::Maybe(_)));
        assert!(layout.space(&family).is_none());
    }

    #[test]
    fn a_container_is_known_by_its_config_and_by_its_id_until_then() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let folder = dir.path().join(ID);
        fs::create_dir(&folder).expect("made");
        let mut layout = containers(dir.path(), &[]);
        let family = layout.families(&folder).expect("listed").pop().expect("one");
        assert_eq!(family.base, format!("{ID}-json.log"));
        for text in [None, Some("{\"Name\":")] {
            if let Some(text) = text {
                fs::write(folder.join(CONFIG), text).expect("written");
            }
            let known = layout.about(&family);
            assert!(matches!(known, Known::Maybe(_)));
            let about = about(known);
            assert_eq!(about.tag.as_str(), "docker.0123456789ab");
            assert_eq!(about.origin.container.as_ref().map(|c| c.name.as_str()), Some(""));
        }
        let config = r#"{"ID":"x","Name":"/web","Config":{"Image":"nginx:1","Labels":{"a":"1","b":"2"}}}"#;
        fs::write(folder.join(CONFIG), config).expect("written");
        let about = about(layout.about(&family));
        assert_eq!(about.tag.as_str(), "docker.web");
        let container = about.origin.container.clone().expect("there");
        assert_eq!((container.name.as_str(), container.image.as_str(), container.id.as_str()), ("web", "nginx:1", ID));
        assert_eq!(container.labels, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn the_limits_of_a_log_are_read_as_docker_reads_them() {
        let text = |options: &str| format!(r#"{{"LogConfig":{{"Type":"json-file","Config":{{{options}}}}}}}"#);
        let space = |options: &str| space_of(text(options).as_bytes());
        let some = |file_max, files, compress| Some(Space { file_max, files, compress });
        assert_eq!(space(r#""max-size":"10k""#), some(10_000, 1, false));
        assert_eq!(space(r#""max-size":"1.5MB","max-file":"3","compress":"true""#), some(1_500_000, 3, true));
        assert_eq!(space(r#""max-size":"-1""#), None);
        let absurd = space(r#""max-size":"99999999999t","max-file":"10000""#).expect("a limit");
        assert!(absurd.file_max.checked_mul(1 << 20).is_some(), "what is made of it has room: {absurd:?}");
        assert_eq!(space(r#""max-file":"3""#), None, "without a size nothing rotates");
        assert_eq!(space_of(b"{\"LogConfig\":"), None);
    }

    #[test]
    fn what_rotation_keeps_of_a_container_is_told_by_its_only_file_too() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let folder = dir.path().join(ID);
        fs::create_dir(&folder).expect("made");
        let (family, space) = (family(&folder, ID), Space { file_max: 1_000_000, files: 2, compress: false });
        // Records of 1000 bytes, so many of them within so many milliseconds.
        let told = |records: u32, millis: u32| {
            let record = |at: u32| {
                let end =
                    format!("\",\"stream\":\"stdout\",\"time\":\"2026-11-24T10:00:{:06.3}Z\"}}\n", f64::from(at) / 1e3);
                format!("{{\"log\":\"{:x<1$}{end}", "", 992 - end.len())
            };
            let text: String = (0..records).map(|n| record(millis * n / (records - 1).max(1))).collect();
            fs::write(family.path(), text).expect("written");
            small(&family, space)
        };
        let text = told(1001, 2000).expect("500 kB a second are kept for 4 s");
        assert!(text.contains("some 4.0 s") && text.contains("the records of its one file"), "{text}");
        assert_eq!(told(401, 2000), None, "10 s");
        assert_eq!(told(801, 900), None, "too short a time to tell");
        assert_eq!(told(60, 1000), None, "too few bytes to tell");
        assert_eq!(told(1, 1000), None);
        fs::write(family.path(), "no record\n".repeat(10_000)).expect("written");
        assert_eq!(small(&family, space), None);
    }

    #[test]
    fn containers_are_left_out_by_label_name_and_image() {
        let container = Container {
            id: ID.to_owned(),
            name: "web-1".to_owned(),
            image: "registry/team/web:2".to_owned(),
            labels: vec![("longshore.ignore".to_owned(), "true".to_owned())],
        };
        for (rule, expected) in [
            ("label:longshore.ignore=true", true),
            ("label:longshore.ignore", true),
            ("label:longshore.ignore=false", false),
            ("label:other", false),
            ("name:web-*", true),
            ("name:web", false),
            ("image:registry/*", true),
            ("image:*nginx*", false),
        ] {
            assert_eq!(parse_exclude(rule).expect("valid").matches(&container), expected, "{rule}");
        }
        assert!(parse_exclude("lable:x=y").expect_err("unknown").contains("label:key=value"));
    }

    #[test]
    fn only_the_log_and_its_generations_are_of_interest() {
        let mut layout = containers(Path::new("/r"), &[]);
        let folder = PathBuf::from("/r").join(ID);
        let member =
            |name: &str| matches!(containers(Path::new("/r"), &[]).meaning(&folder, name, true), Meaning::Member(_));
        let log = format!("{ID}-json.log");
        assert!(member(&log) && member(&format!("{log}.1")) && member(&format!("{log}.12.gz")));
        for name in
            [format!("{log}.1.gz.tmp"), "container-cached.log".into(), "local-logs".into(), "hostconfig.json".into()]
        {
            assert_eq!(layout.meaning(&folder, &name, true), Meaning::Nothing, "{name}");
        }
        assert_eq!(layout.meaning(&folder, CONFIG, true), Meaning::About);
        assert_eq!(layout.meaning(Path::new("/r"), ID, false), Meaning::Folder);
        assert_eq!(layout.meaning(Path::new("/r"), "x", false), Meaning::Nothing);
    }

    #[test]
    fn our_own_container_is_recognised_and_the_host_is_not_taken_for_one() {
        let inside = format!("1 2 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/a rw");
        let host = format!("1 2 0:5 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw");
        assert_eq!(own_id_from(&inside, "", "").as_deref(), Some(ID));
        assert_eq!(own_id_from(&host, "0::/init.scope", "my-host"), None);
        assert_eq!(own_id_from("", &format!("0::/system.slice/docker-{ID}.scope"), "").as_deref(), Some(ID));
        assert_eq!(own_id_from("", &format!("4:cpu:/docker/{ID}"), "").as_deref(), Some(ID));
        assert_eq!(own_id_from("", "", "0123456789ab\n").as_deref(), Some("0123456789ab"));
    }
}
