//! A shipper as a process: its start, what it used, its end.
//!
//! CPU time is user and system time of all its threads from its start, ended threads included, in ticks of 10 ms
//! (`/proc/PID/stat`); memory is the most that was resident at once (`VmHWM`). Nothing of the bench itself is in them.
//! It is killed when dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const LOG: &str = "stderr";
/// How long a shipper may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(30);

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

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> Result<(), String> {
        let _ = kill_process(self.pid(), Signal::TERM);
        let deadline = Instant::now() + STOP_WAIT;
        while self.child.try_wait().map_err(|error| error.to_string())?.is_none() {
            if Instant::now() > deadline {
                return Err(format!("it did not stop within {STOP_WAIT:?}; it said:\n{}", self.said()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
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
}
