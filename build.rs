//! Puts the commit into `longshore --version`: `LONGSHORE_COMMIT` of the build's environment, else what git says, else
//! nothing. Neither git nor a repository has to be there.

use std::path::{Path, PathBuf};
use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The commit of the repository whose root is this crate: an unpacked archive inside of another repository has none.
fn commit() -> Option<String> {
    let root = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().ok()?;
    if root != here {
        return None;
    }
    let mut files = vec!["HEAD".to_owned(), "packed-refs".to_owned()];
    files.extend(git(&["symbolic-ref", "-q", "HEAD"]));
    for file in files {
        // Only files that exist: cargo builds anew each time for one that does not.
        if let Some(path) = git(&["rev-parse", "--git-path", &file]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LONGSHORE_COMMIT");
    let given = std::env::var("LONGSHORE_COMMIT").ok().filter(|text| !text.is_empty());
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let text = match given.or_else(commit) {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    };
    println!("cargo::rustc-env=LONGSHORE_VERSION={text}");
}
