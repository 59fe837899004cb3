//! A shipper as a process: its start, what it used, its end.
//!
//! CPU time is user and system time of all its threads from its start, ended threads included, in ticks of 10 ms
//! (`/proc/PID/stat`), of which user and system time are each cut to whole ones: up to [`CUT_SECONDS`] are not in it. The kernel
//! tells nanoseconds of single threads that still run (`schedstat`), and of a process by a clock that has its number, which rustix
//! does not take. Memory is the most that was resident at once (`VmHWM`). Nothing of the bench itself is in them.
//! It is killed when dropped.
//!
//! Limits: [`VERSION_WAIT`] and [`VERSION_MAX`] for what a program says of its version.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const LOG: &str = "stderr";
const VERSION: &str = "version";
/// CPU time that is not in what the kernel says, at most: less than a tick of the user's and one of the system's.
pub const CUT_SECONDS: f64 = 0.02;
/// How long a shipper may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(30);
/// How long a program may take to say its version, and how many bytes of it are taken.
const VERSION_WAIT: Duration = Duration::from_secs(10);
const VERSION_MAX: u64 = 200;

/// A running shipper.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in `dir`, on the first `cores` cores if asked.
    pub fn start(program: &Path, args: &[String], dir: &Path, cores: Option<usize>) -> Result<Process, String> {
        let said = |error: std::io::Error| format!("{}: {error}", program.display());
        let log = dir.join(LOG);
        let file = File::create(&log).map_err(said)?;
        let mut command = Command::new(program);
        command.args(args).current_dir(dir).stdin(Stdio::null()).env_remove("LOG_LEVEL").env_remove("LOG_FORMAT");
        command.stdout(file.try_clone().map_err(said)?).stderr(file);
        // A child runs where its parent runs, from its first thread on.
        let own = sched_getaffinity(None).map_err(|error| format!("the cores of this process: {error}"))?;
        if let Some(cores) = cores {
            let mut few = CpuSet::new();
            (0..CpuSet::MAX_CPU).filter(|core| own.is_set(*core)).take(cores.max(1)).for_each(|core| few.set(core));
            sched_setaffinity(None, &few).map_err(|error| format!("{cores} cores: {error}"))?;
        }
        let child = command.spawn().map_err(said);
        if cores.is_some() {
            sched_setaffinity(None, &own).map_err(|error| format!("the cores of this process: {error}"))?;
        }
        Ok(Process { child: child?, log })
    }

    fn pid(&self) -> Pid {
        // A child that was not waited for keeps its id.
        Pid::from_child(&self.child)
    }

    /// Says why, if it has ended by itself.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("it ended with {status}; it said:\n{}", self.said())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The end of what it wrote to standard output and error.
    pub fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
    }

    /// CPU time used so far.
    pub fn cpu(&self) -> Result<Cpu, String> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        cpu_of(&text).ok_or_else(|| format!("{path}: not understood: {text}"))
    }

    /// Bytes that were resident at once, at most.
    pub fn peak_memory(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        peak_of(&text).ok_or_else(|| format!("{path}: no VmHWM"))
    }

    /// SIGTERM, and waits for the end. Says how it ended, if that was not well: by a panic, say, when all was delivered.
    pub fn stop(mut self) -> Result<Option<String>, String> {
        let _ = kill_process(self.pid(), Signal::TERM);
        let status = self.wait(STOP_WAIT)?;
        Ok((!is_good(status)).then(|| format!("{status}; it said:\n{}", self.said())))
    }

    fn wait(&mut self, patience: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("it did not stop within {patience:?}; it said:\n{}", self.said()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The first line that `program --version` prints. `dir` gets a file of it.
pub fn version(program: &Path, dir: &Path) -> Result<String, String> {
    let said = |error: std::io::Error| error.to_string();
    let log = dir.join(VERSION);
    let mut command = Command::new(program);
    command.arg("--version").current_dir(dir).stdin(Stdio::null()).stderr(Stdio::null());
    let child = command.stdout(File::create(&log).map_err(said)?).spawn().map_err(said)?;
    let mut process = Process { child, log };
    process.wait(VERSION_WAIT)?;
    let mut text = Vec::new();
    File::open(&process.log).and_then(|file| file.take(VERSION_MAX).read_to_end(&mut text)).map_err(said)?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() { Err("--version prints nothing".to_owned()) } else { Ok(line.to_owned()) }
}

/// Whether a process that got SIGTERM has ended well: by itself and with 0, or of that signal, where it has no handler.
fn is_good(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(Signal::TERM.as_raw())
}

/// CPU time of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// All of it, in seconds.
    pub seconds: f64,
    /// The kernel's part.
    pub system: f64,
}

/// User and system time in `/proc/PID/stat`, which counts in ticks of a hundredth of a second on every Linux.
fn cpu_of(stat: &str) -> Option<Cpu> {
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Cpu { seconds: (user + system) as f64 / 100.0, system: system as f64 / 100.0 })
}

fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_are_found_in_what_the_kernel_says() {
        let stat = "1234 (a) b) R 1 1 1 0 -1 4194560 99 0 0 0 150 25 0 0 20 0 4 0 1 2 3";
        assert_eq!(cpu_of(stat), Some(Cpu { seconds: 1.75, system: 0.25 }));
        assert_eq!(peak_of("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(cpu_of("garbage"), None);
    }

    #[test]
    fn a_version_is_one_line_of_bounded_length() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let long = "x".repeat(3 * VERSION_MAX as usize);
        for (nth, (script, expected)) in [
            ("echo 'Fluent Bit v5.1.1  '; echo 'Git commit: 1'".to_owned(), Ok("Fluent Bit v5.1.1".to_owned())),
            (format!("echo {long}"), Ok("x".repeat(VERSION_MAX as usize))),
            ("echo no such flag >&2; exit 1".to_owned(), Err("--version prints nothing".to_owned())),
        ]
        .into_iter()
        .enumerate()
        {
            let program = dir.path().join(format!("program{nth}"));
            fs::write(&program, format!("#!/bin/sh\n[ \"$1\" = --version ] || exit 2\n{script}\n")).expect("written");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
            // Another thread's child may still hold it for writing, between its fork and its exec.
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut said = version(&program, dir.path());
            while said.as_ref().is_err_and(|error| error.contains("busy")) && Instant::now() < deadline {
                said = version(&program, dir.path());
            }
            assert_eq!(said, expected, "{script}");
        }
        assert!(version(Path::new("/nowhere"), dir.path()).is_err());
    }

    #[test]
    fn a_process_that_ends_early_is_quoted() {
        let dir = tempfile::tempdir().expect("a folder");
        let args = ["-c", "echo no such key >&2; exit 3"].map(str::to_owned);
        let mut process = Process::start(Path::new("/bin/sh"), &args, dir.path(), None).expect("there is a shell");
        let deadline = Instant::now() + Duration::from_secs(20);
        let error = loop {
            match process.check() {
                Err(error) => break error,
                Ok(()) => assert!(Instant::now() < deadline, "it does not end"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert!(error.contains("no such key") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_bad_end_is_told_and_an_end_of_the_signal_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        for (trap, bad) in [
            ("", None),
            ("trap 'exit 0' TERM;", None),
            ("trap 'echo a panic; exit 101' TERM;", Some("exit status: 101; it said:\nready\na panic\n")),
            ("trap 'kill -9 $$' TERM;", Some("signal: 9 (SIGKILL); it said:\nready\n")),
        ] {
            let args = ["-c".to_owned(), format!("{trap} echo ready; while :; do sleep 0.02; done")];
            let process = Process::start(Path::new("/bin/sh"), &args, dir.path(), None).expect("there is a shell");
            let deadline = Instant::now() + Duration::from_secs(20);
            while !process.said().contains("ready") {
                assert!(Instant::now() < deadline, "it does not start: {trap}");
                thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(process.stop().expect("it ends").as_deref(), bad, "{trap}");
        }
    }
}
