//! `[node]`: folders, the memory budget, threads, the time to stop.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::explain::{Setting, note};
use super::memory::{self, Limit};
use super::{Node, Overrides};
use crate::settings::{Section, describe, parse_size, show_size};

/// `data_dir` unless it is configured.
pub const DATA_DIR_DEFAULT: &str = "/var/lib/longshore";

/// Reads the section; tells the document where secrets are.
pub(super) fn read(section: Section<'_, '_>, root: &Path, overrides: &Overrides, settings: &mut Vec<Setting>) -> Node {
    let from_file = section.text("data_dir").map(PathBuf::from);
    if from_file.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        section.error("data_dir", "an empty path; write for example \"/var/lib/longshore\"");
    }
    let data_dir = overrides.data_dir.clone().or(from_file).unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT));
    let limit = Limit::read(root);
    if let Some(message) = limit.too_low() {
        section.error("memory", message);
    }
    let memory = node_memory(&section, limit);
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get() as u64);
    let workers = section.count("workers", 1..257).unwrap_or(cores.min(64));
    let shutdown_timeout =
        section.time("shutdown_timeout", Duration::ZERO..Duration::from_secs(3601)).unwrap_or(Duration::from_secs(25));
    let secrets = section.text("secrets").map_or_else(|| PathBuf::from("/run/secrets"), PathBuf::from);
    section.doc().set_secrets(&secrets);
    let flag = overrides.data_dir.as_ref().map(|_| "flag --data-dir");
    note(settings, &section, "data_dir", format!("{:?}", data_dir.display().to_string()), flag);
    note(settings, &section, "memory", format!("\"{}\"", show_size(memory)), None);
    note(settings, &section, "workers", workers.to_string(), None);
    note(settings, &section, "shutdown_timeout", format!("\"{shutdown_timeout:?}\""), None);
    note(settings, &section, "secrets", format!("{:?}", secrets.display().to_string()), None);
    section.finish();
    Node {
        data_dir,
        memory: usize::try_from(memory).unwrap_or(usize::MAX),
        workers: workers as usize,
        shutdown_timeout,
        secrets,
    }
}

/// `memory`: a size, or a percentage of the limit.
fn node_memory(section: &Section<'_, '_>, limit: Limit) -> u64 {
    let fallback = limit.default_budget();
    let span = section.span_of("memory");
    let least = memory::mib(memory::MEMORY_MIN);
    let text = match section.raw("memory").map(|value| value.get_ref()) {
        None => return fallback,
        Some(DeValue::String(_)) => match section.text("memory") {
            Some(text) => text,
            None => return fallback,
        },
        Some(DeValue::Integer(number)) => {
            section.error("memory", format!("{0} has no unit; write \"{0}MiB\" or \"70%\"", number.as_str()));
            return fallback;
        }
        Some(other) => {
            section.error(
                "memory",
                format!("expected a size or a percentage (\"64MiB\", \"70%\"), got {}", describe(other)),
            );
            return fallback;
        }
    };
    if let Some(percent) = text.trim().strip_suffix('%') {
        let Some(percent) = percent.trim().parse::<u64>().ok().filter(|percent| (1..=90).contains(percent)) else {
            section.error("memory", format!("\"{text}\" is not a whole percentage from 1% to 90%"));
            return fallback;
        };
        if limit.bytes().is_none() {
            let default = memory::mib(memory::MEMORY_DEFAULT_MAX);
            section.doc().warn(
                span,
                format!("node.memory: neither a cgroup limit nor the machine's memory can be read; {default} is taken"),
            );
        } else if limit.bytes().is_some_and(|bytes| bytes / 100 * percent < memory::MEMORY_MIN) {
            let message = format!("node.memory: {text} of {} is below {least}; {least} is taken", limit.describe());
            section.doc().warn(span, message);
        }
        return limit.share(percent);
    }
    match parse_size(&text) {
        Ok(bytes) if bytes < memory::MEMORY_MIN => {
            section.error("memory", format!("\"{text}\" is below {least}, the least that works"));
            fallback
        }
        Ok(bytes) if bytes > 1 << 40 => {
            section.error("memory", format!("\"{text}\" is above 1TiB, the most that can be budgeted"));
            fallback
        }
        Ok(bytes) => {
            if let Some(most) = limit.bytes().filter(|most| bytes > *most) {
                let share = memory::mib(most / 100 * memory::SHARE_DEFAULT);
                let message =
                    format!("node.memory: \"{text}\" is more than {}; write \"70%\" ({share})", limit.describe());
                section.doc().warn(span, message);
            }
            bytes
        }
        Err(message) => {
            section.error("memory", format!("{message}, or a percentage: \"70%\""));
            fallback
        }
    }
}
