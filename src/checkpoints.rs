//! `longshore checkpoints list|set|forget`: looks at, moves and removes the places where followed files were left.
//!
//! `list` only reads, and works beside a running longshore. `set` and `forget` take the data folder's lock, so they ask
//! for longshore to be stopped. Limits: a place is set in a plain file, at the start of a line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use crate::cli::Checkpoints as Words;
use crate::codec::time::write_rfc3339;
use crate::config;
use crate::inputs::follow::checkpoint::{self, Entry, Key, Place, Saved};
use crate::inputs::follow::{generations, identity, source};
use crate::record::Timestamp;

/// Bytes that are read at once to look for the start of a line.
const BLOCK: u64 = 64 << 10;

/// Does what the words say. `Ok` is the text for standard output.
///
/// # Errors
/// What is wrong, and the way out.
pub fn run(words: &Words) -> Result<String, String> {
    match words {
        Words::List { place, json } => {
            list(&config::data_folder(place.config.as_deref(), place.data_dir.as_deref())?, *json)
        }
        Words::Set { place, input, key, file, offset, end } => {
            let data = config::data_folder(place.config.as_deref(), place.data_dir.as_deref())?;
            let file = file.clone().or_else(|| key.starts_with('/').then(|| PathBuf::from(key)));
            let file = file.ok_or_else(|| format!("\"{key}\" is no path: say with --file which file the place is in, for example --file /var/lib/docker/containers/ID/ID-json.log"))?;
            set(&data, input, key, &file, if *end { None } else { *offset })
        }
        Words::Forget { place, input, key } => {
            forget(&config::data_folder(place.config.as_deref(), place.data_dir.as_deref())?, input, key)
        }
    }
}

fn list(data: &Path, json: bool) -> Result<String, String> {
    let path = data.join(checkpoint::FILE);
    if !path.exists() && !path.with_extension("bak").exists() {
        return Err(format!("{}: no checkpoints there; say --config or --data-dir as `run` has it", data.display()));
    }
    let stored = checkpoint::stored(data).map_err(|error| error.to_string())?;
    let mut all: Vec<(&Key, &Entry)> = stored.iter().collect();
    all.sort_by_key(|(key, _)| (*key).clone());
    let mut out = String::new();
    if json {
        for ((input, key), entry) in all {
            let done = &entry.saved.done;
            let hold = entry
                .saved
                .hold
                .as_ref()
                .map(|(hold, ahead)| json!({"offset": hold.offset, "delivered_beyond": ahead}));
            let value = json!({
                "input": input, "key": key, "file": done.name, "offset": done.offset, "size": done.size,
                "seen": time(entry.seen), "inode": done.id.ino, "unfinished_line": hold,
            });
            out.push_str(&value.to_string());
            out.push('\n');
        }
        return Ok(out);
    }
    let mut rows = vec![["INPUT", "KEY", "FILE", "OFFSET", "OF", "LAST FOLLOWED"].map(str::to_owned)];
    for ((input, key), entry) in all {
        let done = &entry.saved.done;
        // The name of a container's log is its id once more.
        let file = done.name.replace(key.as_str(), &short(key));
        let texts = [shown(input), short(&shown(key)), shown(&file), done.offset.to_string(), done.size.to_string()];
        let [input, key, file, offset, size] = texts;
        rows.push([input, key, file, offset, size, time(entry.seen)]);
    }
    let widths: Vec<usize> =
        (0..6).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    for row in &rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Numbers stand to the right.
            let padding = " ".repeat(width - cell.chars().count());
            let right = matches!(at, 3 | 4);
            line.push_str(&if right { format!("{padding}{cell}  ") } else { format!("{cell}{padding}  ") });
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    Ok(out)
}

/// A container's id as people write it.
fn short(key: &str) -> String {
    key[..if is_id(key) { 12 } else { key.len() }].to_owned()
}

fn is_id(key: &str) -> bool {
    key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A terminal is not to be steered by a file's name.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn time(seconds: i64) -> String {
    let mut text = Vec::new();
    write_rfc3339(Timestamp(seconds.saturating_mul(1_000_000_000)), &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    // Whole seconds.
    text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

fn set(data: &Path, input: &str, key: &str, file: &Path, offset: Option<u64>) -> Result<String, String> {
    let named = |error: io::Error| format!("{}: {error}", file.display());
    let held = generations::open(file).map_err(named)?;
    if held.gz {
        return Err(format!("{}: a place can be set in a plain file only", file.display()));
    }
    let log = fs::File::open(file).map_err(named)?;
    let size = log.metadata().map_err(named)?.len();
    let offset = match offset {
        Some(offset) if offset > size => {
            return Err(format!("{}: offset {offset} is beyond its end at {size}", file.display()));
        }
        Some(offset) => {
            let line = line_start(&log, offset).map_err(named)?;
            if line != offset {
                return Err(format!(
                    "{}: offset {offset} is within a line; it starts at {line}: say --offset {line}",
                    file.display()
                ));
            }
            offset
        }
        None => line_start(&log, size).map_err(named)?,
    };
    let done = Place {
        id: held.id,
        name: held.name.to_string(),
        head: source::head_of(&held).map_err(named)?,
        tail: identity::tail_of(&log, offset).map_err(named)?,
        offset,
        size,
        ..Place::default()
    };
    let seen = UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs() as i64;
    let entry = Entry { saved: Saved { done, ..Saved::default() }, seen };
    checkpoint::edit(data, |all| {
        // A whole one may be new, and may be the start of another one's.
        let key = if is_whole(key) { key.to_owned() } else { full_key(all, input, key)? };
        all.insert((input.to_owned(), key.clone()), entry);
        Ok(format!("{input} {key}: goes on at {offset} of {size} in {}\n", file.display()))
    })
    .map_err(|error| error.to_string())?
}

fn forget(data: &Path, input: &str, key: &str) -> Result<String, String> {
    if !data.join(checkpoint::FILE).exists() {
        return Err(format!("{}: no checkpoints there; say --config or --data-dir as `run` has it", data.display()));
    }
    checkpoint::edit(data, |all| {
        let key = full_key(all, input, key)?;
        all.remove(&(input.to_owned(), key.clone()));
        Ok(format!("{input} {key}: forgotten; it is read from its head, or as `start` says\n"))
    })
    .map_err(|error| error.to_string())?
}

/// Whether it is a key, and not the start of one: a container's id, or the path of a file.
fn is_whole(key: &str) -> bool {
    key.starts_with('/') || is_id(key)
}

/// The key that starts so, if there is exactly one.
fn full_key(all: &std::collections::HashMap<Key, Entry>, input: &str, start: &str) -> Result<String, String> {
    let mut known = all.keys().filter(|(of, _)| of == input).map(|(_, key)| key);
    if let Some(key) = known.clone().find(|key| *key == start) {
        return Ok(key.clone());
    }
    let found: Vec<&String> = known.by_ref().filter(|key| key.starts_with(start)).collect();
    match found[..] {
        [one] => Ok(one.clone()),
        [] => Err(format!(
            "input \"{input}\" has no checkpoint \"{start}\"; `longshore checkpoints list` shows all, and a new one is set by the whole id of its container, or the path of its file"
        )),
        _ => Err(format!("\"{start}\" is the start of {} keys of input \"{input}\"; say more of it", found.len())),
    }
}

/// The start of the line that `offset` is in.
fn line_start(file: &fs::File, offset: u64) -> io::Result<u64> {
    let mut end = offset;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        block.resize((end - start) as usize, 0);
        let got = identity::read_at(file, &mut block, start)?;
        if let Some(at) = block[..got].iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_place_is_set_listed_and_forgotten() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (data, log) = (dir.path().join("data"), dir.path().join("a.log"));
        assert!(list(&data, false).expect_err("nothing there").contains("--data-dir"));
        fs::write(&log, "one\ntwo\nthr").expect("written");
        let error = set(&data, "in", ID, &log, Some(5)).expect_err("within a line");
        assert!(error.contains("say --offset 4"), "{error}");
        assert!(set(&data, "in", ID, &log, Some(50)).expect_err("beyond").contains("its end at 11"));
        set(&data, "in", ID, &log, Some(4)).expect("set");
        set(&data, "in", "0123", &log, None).expect("the start of the key is enough");
        let error = set(&data, "in", "4567", &log, None).expect_err("the start of none");
        assert!(error.contains("whole id of its container"), "{error}");
        let like = format!("{}0", &ID[..63]);
        set(&data, "in", &like, &log, None).expect("a whole one");
        assert!(set(&data, "in", "0123", &log, None).expect_err("of two").contains("the start of 2 keys"));
        forget(&data, "in", &like).expect("gone");
        set(&data, "in", "/other", &log, Some(0)).expect("set");
        set(&data, "in", "/oth", &log, Some(4)).expect("another file");
        assert_eq!(list(&data, false).expect("there").lines().count(), 4);
        forget(&data, "in", "/oth").expect("gone");
        let text = list(&data, false).expect("there");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[2].starts_with("in     0123456789ab  a.log       8  11  20"), "{text}");
        let one: serde_json::Value =
            serde_json::from_str(list(&data, true).expect("there").lines().nth(1).expect("two")).expect("JSON");
        assert_eq!((one["key"].as_str(), one["offset"].as_u64()), (Some(ID), Some(8)));
        assert!(forget(&data, "in", "x").expect_err("no such").contains("checkpoints list"));
        assert!(forget(&data, "out", "0123").is_err());
        forget(&data, "in", "0123").expect("gone");
        assert_eq!(list(&data, true).expect("there").lines().count(), 1);
    }

    #[test]
    fn a_place_is_not_set_while_longshore_runs_but_listed() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let log = dir.path().join("a.log");
        fs::write(&log, "one\n").expect("written");
        set(dir.path(), "in", "/k", &log, None).expect("set");
        let running =
            checkpoint::Checkpoints::open(dir.path(), Box::new(std::collections::BTreeMap::new)).expect("free");
        assert!(set(dir.path(), "in", "/k", &log, None).expect_err("locked").contains("another longshore"));
        assert_eq!(list(dir.path(), true).expect("there").lines().count(), 1);
        // What is saved beside it stays.
        let ledger = serde_json::json!({"stopped": true});
        let told = ledger.clone();
        running.carry(Box::new(move || told.clone()));
        running.touch(0, true);
        running.save().expect("saved");
        drop(running);
        forget(dir.path(), "in", "/k").expect("gone");
        assert_eq!(checkpoint::stored_ledger(dir.path()).expect("readable"), Some(ledger));
    }
}
