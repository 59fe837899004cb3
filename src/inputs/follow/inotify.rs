//! The kernel's word on folders and files: inotify without unsafe code, and a bell that wakes a waiting thread.
//!
//! Limits: the kernel's own (`max_user_watches`, `max_user_instances`, 16,384 queued events); who meets them polls.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::disk;

/// What happens in a folder: names that come and go, and files that are closed after writing. Not MODIFY: each write
/// of a hot file would be an event.
pub const FOLDER: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ONLYDIR);
/// An idle file grows: told once.
pub const GROWTH: WatchFlags = WatchFlags::MODIFY.union(WatchFlags::ONESHOT);

/// Whether a file system tells of what happens in it. One that is written to elsewhere (a server, the host of a virtual
/// machine, a program) tells of what goes through this kernel only, so its folders and files are looked at. An overlay tells
/// of all that goes through it, which is what a container's own files do; what is written below it comes with the rescan.
pub fn tells(file_system: u64) -> bool {
    const DEAF: [u64; 13] = [
        0x6969,      // NFS
        0x517b,      // SMB
        0xfe53_4d42, // SMB2
        0xff53_4d42, // CIFS
        0x0102_1997, // 9p
        0x6573_5546, // FUSE, virtiofs
        0x00c3_6400, // Ceph
        0x5346_414f, // AFS
        0x6b41_4653, // kAFS
        0x0bd0_0bd0, // Lustre
        0x0116_1970, // GFS2
        0x7461_636f, // OCFS2
        0x786f_4256, // VirtualBox
    ];
    !DEAF.contains(&file_system)
}

/// Whether all that happens in a file system goes through this kernel, and through this mount's own files: then all that
/// is written by `write` is told, or that the queue overflowed. (An overlay's file may be read in its lower layer while the copy above grows.)
pub fn tells_all(file_system: u64) -> bool {
    const SURE: [u64; 6] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683e, // Btrfs
        0x0102_1994, // tmpfs
        0x2fc1_2fc1, // ZFS
        0xf2f5_2010, // F2FS
    ];
    SURE.contains(&file_system)
}

/// One inotify instance.
#[derive(Debug)]
pub struct Watcher {
    fd: OwnedFd,
}

/// One event.
#[derive(Debug)]
pub struct Event<'a> {
    /// The watch; -1 for the queue itself.
    pub watch: i32,
    /// The name within the folder.
    pub name: Option<&'a str>,
    /// What.
    pub flags: ReadFlags,
}

impl Event<'_> {
    /// Events were lost: everything has to be looked at.
    pub fn is_overflow(&self) -> bool {
        self.flags.contains(ReadFlags::QUEUE_OVERFLOW)
    }

    /// A file was written to.
    pub fn is_written(&self) -> bool {
        self.flags.contains(ReadFlags::MODIFY)
    }

    /// Whoever wrote a file has closed it.
    pub fn is_closed(&self) -> bool {
        self.flags.contains(ReadFlags::CLOSE_WRITE)
    }

    /// A new file has that name.
    pub fn is_created(&self) -> bool {
        self.flags.contains(ReadFlags::CREATE) && !self.flags.contains(ReadFlags::ISDIR)
    }

    /// A new folder has that name.
    pub fn is_new_folder(&self) -> bool {
        self.flags.contains(ReadFlags::CREATE | ReadFlags::ISDIR)
    }

    /// A file was given that name.
    pub fn has_come(&self) -> bool {
        self.flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
    }

    /// A file that had that name has another one, or is in another folder.
    pub fn has_moved(&self) -> bool {
        self.flags.contains(ReadFlags::MOVED_FROM)
    }

    /// The watch is gone.
    pub fn is_ended(&self) -> bool {
        self.flags.contains(ReadFlags::IGNORED)
    }
}

impl Watcher {
    /// A new instance.
    pub fn new() -> io::Result<Watcher> {
        Ok(Watcher { fd: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)? })
    }

    /// Watches a path; the number comes back in events.
    pub fn add(&self, path: &Path, what: WatchFlags) -> io::Result<i32> {
        disk::watch(&self.fd, path, what)
    }

    /// Watches no longer.
    pub fn remove(&self, watch: i32) {
        // It may have ended by itself.
        let _ = inotify::remove_watch(&self.fd, watch);
    }

    /// Whether something is queued.
    pub fn has_more(&self) -> bool {
        rustix::io::ioctl_fionread(&self.fd).is_ok_and(|bytes| bytes > 0)
    }

    /// Hands out what is queued, without waiting. Names that are not UTF-8 come as `None`.
    pub fn drain(&self, mut each: impl FnMut(Event<'_>)) {
        if !disk::events() {
            return;
        }
        let mut buf = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.fd, &mut buf);
        loop {
            match reader.next() {
                Ok(event) => each(Event {
                    watch: event.wd(),
                    name: event.file_name().and_then(|name| name.to_str().ok()),
                    flags: event.events(),
                }),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Wakes one thread that waits in [`wait`].
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent bell.
    pub fn new() -> io::Result<Bell> {
        Ok(Bell(rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Rings; never waits.
    pub fn ring(&self) {
        // Fails only when it has rung 2^64 - 1 times unheard.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Heard.
    pub fn quiet(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until the bell rings, the watcher has events, or the time is over.
pub fn wait(bell: &Bell, watcher: Option<&Watcher>, timeout: Duration) {
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    let bell = PollFd::new(bell, PollFlags::IN);
    // An early return (a signal) only costs one more look.
    let _ = match watcher {
        Some(watcher) => rustix::event::poll(&mut [bell, PollFd::new(watcher, PollFlags::IN)], Some(&timeout)),
        None => rustix::event::poll(&mut [bell], Some(&timeout)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_others_write_to_tell_nothing_and_local_ones_do() {
        for (name, magic) in [("nfs", 0x6969), ("9p", 0x0102_1997), ("fuse", 0x6573_5546), ("smb2", 0xfe53_4d42)] {
            assert!(!tells(magic), "{name}");
        }
        let local = [("ext4", 0xef53), ("xfs", 0x5846_5342), ("btrfs", 0x9123_683e), ("tmpfs", 0x0102_1994)];
        for (name, magic) in local.into_iter().chain([("overlay", 0x794c_7630), ("zfs", 0x2fc1_2fc1), ("unknown", 0)]) {
            assert!(tells(magic), "{name}");
        }
        for (name, magic, sure) in
            [("ext4", 0xef53, true), ("overlay", 0x794c_7630, false), ("nfs", 0x6969, false), ("unknown", 0, false)]
        {
            assert_eq!(tells_all(magic), sure, "{name}");
        }
        assert_eq!(disk::file_system(Path::new("/proc")), 0x9fa0);
        assert_eq!(disk::file_system(Path::new("/there/is/nothing")), 0);
    }
}
