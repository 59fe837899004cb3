//! How much memory the node may use: the limit of its cgroup (version 1 or 2), else the machine's memory.
//!
//! Sources: `/proc/self/cgroup` (which group), `memory.max` of that group and of every group above it (version 2),
//! `memory.limit_in_bytes` (version 1), `/proc/meminfo`. In a container the group shows as `/`, and its limit stands at
//! the root of the mount.

use std::fs;
use std::path::Path;

/// The least budget that everything works with.
pub const MEMORY_MIN: u64 = 16 << 20;
/// The least limit that leaves [`MEMORY_MIN`] and what the program itself needs.
pub const LIMIT_MIN: u64 = 24 << 20;
/// The most that is taken when nothing is configured.
pub const MEMORY_DEFAULT_MAX: u64 = 256 << 20;
/// The share of the limit that the budget takes when nothing is configured; code, stacks and buffers of the system
/// need the rest.
pub const SHARE_DEFAULT: u64 = 70;

/// What limits the memory, and to how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The cgroup's limit in bytes.
    Cgroup(u64),
    /// No cgroup limit: the machine's memory in bytes.
    Machine(u64),
    /// Neither could be read.
    Unknown,
}

impl Limit {
    /// Reads it from the files under `root` (`/` but in tests).
    pub fn read(root: &Path) -> Limit {
        let machine = meminfo(root);
        let groups = read(root, "proc/self/cgroup").unwrap_or_default();
        // A limit above the machine's memory is none: version 1 says "no limit" with a number near 2^63.
        match groups.lines().filter_map(|line| group_limit(root, line)).min() {
            Some(limit) if machine.is_none_or(|machine| limit <= machine) && limit < 1 << 60 => Limit::Cgroup(limit),
            _ => machine.map_or(Limit::Unknown, Limit::Machine),
        }
    }

    /// Bytes, where known.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Limit::Cgroup(bytes) | Limit::Machine(bytes) => Some(bytes),
            Limit::Unknown => None,
        }
    }

    /// Why nothing can work under it.
    pub fn too_low(self) -> Option<String> {
        let Limit::Cgroup(bytes) = self else { return None };
        (bytes < LIMIT_MIN).then(|| {
            format!(
                "{} is below {}, the least that longshore runs in; raise it (`--memory`, `mem_limit`, `MemoryMax`)",
                self.describe(),
                mib(LIMIT_MIN)
            )
        })
    }

    /// A percentage of it; [`MEMORY_DEFAULT_MAX`] where it is unknown. Never below [`MEMORY_MIN`].
    pub fn share(self, percent: u64) -> u64 {
        self.bytes().map_or(MEMORY_DEFAULT_MAX, |bytes| bytes / 100 * percent).max(MEMORY_MIN)
    }

    /// The budget when nothing is configured.
    pub fn default_budget(self) -> u64 {
        match self {
            Limit::Cgroup(_) => self.share(SHARE_DEFAULT).min(MEMORY_DEFAULT_MAX),
            Limit::Machine(bytes) => (bytes / 100 * SHARE_DEFAULT).clamp(MEMORY_MIN, MEMORY_DEFAULT_MAX),
            Limit::Unknown => MEMORY_DEFAULT_MAX,
        }
    }

    /// In words for messages.
    pub fn describe(self) -> String {
        match self {
            Limit::Cgroup(bytes) => format!("the cgroup's limit of {}", mib(bytes)),
            Limit::Machine(bytes) => format!("the machine's memory of {} (no cgroup limit)", mib(bytes)),
            Limit::Unknown => "an unknown limit".to_owned(),
        }
    }
}

/// A size in whole MiB, for people.
pub fn mib(bytes: u64) -> String {
    format!("{}MiB", bytes >> 20)
}

fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

fn meminfo(root: &Path) -> Option<u64> {
    let text = read(root, "proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The limit that one line of `/proc/self/cgroup` (`id:controllers:path`) leads to.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return None;
    };
    // The lowest limit on the way up holds. `/../..` stands for a group outside what this namespace sees.
    let mut group = path.trim_matches('/');
    if group.split('/').any(|part| part == "..") {
        group = "";
    }
    let mut lowest = None;
    loop {
        let text = read(root, &format!("{mount}/{group}/{file}"));
        let here = text.and_then(|text| text.trim().parse::<u64>().ok());
        lowest = lowest.into_iter().chain(here).min();
        match (group.rfind('/'), group.is_empty()) {
            (_, true) => return lowest,
            (Some(at), _) => group = &group[..at],
            (None, _) => group = "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        8000000 kB\nMemFree: 1 kB\n");

    #[test]
    fn version_2_takes_the_lowest_limit_on_the_way_up() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/system.slice/longshore.service\n"),
            ("sys/fs/cgroup/system.slice/longshore.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "134217728\n"),
        ]);
        assert_eq!(Limit::read(root.path()), Limit::Cgroup(128 << 20));
        assert_eq!(Limit::read(root.path()).default_budget(), (128 << 20) / 100 * 70);
    }

    #[test]
    fn version_2_in_a_container_stands_at_the_root_of_the_mount() {
        let files = [MEMINFO, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "67108864\n")];
        assert_eq!(Limit::read(root(&files).path()), Limit::Cgroup(64 << 20));
        let files = [MEMINFO, ("proc/self/cgroup", "0::/../../x\n"), ("sys/fs/cgroup/memory.max", "67108864\n")];
        assert_eq!(Limit::read(root(&files).path()), Limit::Cgroup(64 << 20));
    }

    #[test]
    fn version_1_says_no_limit_with_a_huge_number() {
        let group = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n");
        let limit = "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes";
        let unlimited = root(&[MEMINFO, group, (limit, "9223372036854771712\n")]);
        assert_eq!(Limit::read(unlimited.path()), Limit::Machine(8_000_000 << 10));
        let limited = root(&[MEMINFO, group, (limit, "20971520\n")]);
        assert_eq!(Limit::read(limited.path()), Limit::Cgroup(20 << 20));
        assert_eq!(Limit::read(limited.path()).default_budget(), MEMORY_MIN, "70 % would be 14 MiB");
    }

    #[test]
    fn a_limit_that_leaves_less_than_the_least_budget_is_said() {
        assert_eq!(Limit::Cgroup(24 << 20).too_low(), None);
        assert_eq!(Limit::Machine(1 << 20).too_low(), None);
        let said = Limit::Cgroup(20 << 20).too_low().expect("too low");
        assert!(said.starts_with("the cgroup's limit of 20MiB is below 24MiB"), "{said}");
    }

    #[test]
    fn without_any_file_the_default_holds() {
        let nothing = root(&[]);
        assert_eq!(Limit::read(nothing.path()), Limit::Unknown);
        assert_eq!(Limit::Unknown.default_budget(), MEMORY_DEFAULT_MAX);
        let odd = root(&[("proc/self/cgroup", "::::\n0\nx:memory\n\n"), ("proc/meminfo", "MemTotal: lots\n")]);
        assert_eq!(Limit::read(odd.path()), Limit::Unknown);
    }
}
