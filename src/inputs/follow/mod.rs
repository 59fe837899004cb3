//! Following files through their generations: the engine of the `docker` and `file` inputs.
//!
//! ```text
//! opener       watches folders, opens what appears, never waits        one thread an input
//!   v          descriptors, in the order of their generations
//! reader       owns chains, gives each its turn                        `readers` threads
//!   chain      one container or file: lines -> batches -> sinks, receipts -> progress
//! checkpoints  saves the progress of all chains                        one thread a node
//! ```
//!
//! What makes a rotation safe is that the opener reads no log and only opens: whatever has to wait, it is held by then.

pub mod chain;
pub mod checkpoint;
pub mod clock;
pub mod decode;
pub mod disk;
pub mod generations;
pub mod held;
pub mod identity;
pub mod inotify;
pub mod keeper;
pub mod layout;
pub mod listing;
pub mod opener;
pub mod priority;
pub mod progress;
pub mod reader;
pub mod resume;
pub mod source;
pub mod standing;
pub mod startup;
pub mod stored;
pub mod tracker;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};

use toml::de::DeValue;

use self::chain::Rules;
use self::inotify::Bell;
use self::keeper::{Chains, Keeper};
use self::layout::Layout;
use self::opener::{Opener, Setup};
use self::reader::{Line, Reader};
use self::startup::Startup;
use crate::inputs::{Ack, Outlet};
use crate::pipeline::template::Template;
use crate::settings::Section;
use crate::workers::Workers;

/// What an input follows, and how.
pub struct Follow {
    /// What is the same for all of its chains.
    pub rules: Rules,
    /// Its folders and names.
    pub layout: Box<dyn Layout>,
    /// Reader threads, at least one.
    pub readers: usize,
    /// Whether a chain without a checkpoint starts at its end, if this is the input's first start.
    pub tail: bool,
    /// What its chains are called, in the plural.
    pub what: &'static str,
    /// Bytes that deleted files may hold on disk; `None`: a share of the file system.
    pub held_deleted_max: Option<u64>,
    /// Whether the opener may have real-time priority.
    pub hurry: bool,
    /// Whether to use inotify; without it everything is looked at again and again.
    pub watch: bool,
}

/// Starts the threads.
pub fn start(follow: Follow, outlet: Outlet, workers: &Arc<Workers>) -> io::Result<()> {
    let rules = Arc::new(follow.rules);
    let chains = Arc::new(Chains::default());
    outlet.counters().followed.used.store(true, Relaxed);
    let startup = Arc::new(Startup::new(&rules.input, follow.what));
    let known = outlet.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.knows(&rules.input));
    let mut lines = Vec::new();
    let mut bells = Vec::new();
    for number in 0..follow.readers.max(1) {
        let (news, heard) = mpsc::channel();
        let line = Line { news, park: Arc::default(), bell: Arc::new(Bell::new()?), ended: Arc::default() };
        bells.push(Arc::clone(&line.bell));
        let reader = Reader::new(outlet.clone(), Arc::clone(&rules), heard, line.clone(), Arc::clone(&startup));
        let reader = if follow.watch { reader } else { reader.without_watcher() };
        workers.spawn(&format!("read {number} {}", rules.input), move || reader.run())?;
        lines.push(line);
    }
    let bell = Arc::new(Bell::new()?);
    bells.push(Arc::clone(&bell));
    let setup = Setup {
        outlet: outlet.clone(),
        input: rules.input.clone(),
        layout: follow.layout,
        lines,
        bell,
        tail: follow.tail && !known,
        startup,
        chains: Arc::clone(&chains),
        hurry: follow.hurry,
    };
    let watch = follow.watch;
    workers.spawn(&format!("open {}", rules.input), move || Opener::new(setup, watch).run())?;
    if !outlet.once {
        let bell = Arc::new(Bell::new()?);
        bells.push(Arc::clone(&bell));
        let keeper = Keeper::new(outlet.clone(), &rules.input, chains, follow.held_deleted_max);
        workers.spawn(&format!("keep {}", rules.input), move || keeper.run(&bell))?;
    }
    // Threads wait for files, not for the word to stop: somebody has to wake them.
    let stop = outlet.stop.clone();
    outlet.runtime.spawn(async move {
        stop.wait().await;
        bells.iter().for_each(|bell| bell.ring());
    });
    Ok(())
}

/// Reads `ack`.
pub(super) fn read_ack(section: &Section<'_, '_>) -> Ack {
    if section.text("ack").as_deref() == Some("durable") {
        section.error("ack", "\"durable\" is for what has no other copy; a file is its own buffer, and its checkpoint moves when every sink has the records, or has them in its disk log: that is \"delivered\", the default");
        return Ack::Delivered;
    }
    section.choice("ack", &[("delivered", Ack::Delivered), ("accepted", Ack::Accepted)]).unwrap_or(Ack::Delivered)
}

/// Reads `held_deleted_max` and `priority`.
pub(super) fn read_limits(section: &Section<'_, '_>) -> (Option<u64>, bool) {
    let max = section.size("held_deleted_max", 1..1 << 50);
    let hurry = section.choice("priority", &[("realtime", true), ("normal", false)]).unwrap_or(true);
    (max, hurry)
}

/// Reads `start`: whether it is `"tail"`.
pub(super) fn read_start(section: &Section<'_, '_>) -> bool {
    section.choice("start", &[("head", false), ("tail", true)]).unwrap_or(false)
}

/// Reads `tag`, a template of what is known of the origin.
pub(super) fn read_tag(section: &Section<'_, '_>, default: &str) -> Template {
    let plain = |text: &str| Template::parse(text).unwrap_or_default();
    let Some(value) = section.raw("tag") else { return plain(default) };
    let DeValue::String(text) = value.get_ref() else {
        section.text("tag");
        return plain(default);
    };
    match Template::parse_in(section.doc(), text, value.span()) {
        Ok(template) => {
            if let Some(path) = template.beyond_origin() {
                section.error("tag", format!("`{{{path}}}` is not known of a whole file; use container.name, container.id, container.image, container.labels.x or file, or a `tag` step"));
            }
            template
        }
        Err(error) => {
            section.error("tag", error.message);
            plain(default)
        }
    }
}
